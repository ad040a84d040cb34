# UPerNet + GFNet-CNN-T (our reconstruction) on ADE20K, for comparing token mixers. There are no published weights or scores.
# All families use the same recipe, that of HorNet-Tiny; this is our own choice.
_base_ = [
    '../../_base_/models/upernet_hornet.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_160k.py',
]
model = dict(
    backbone=dict(_delete_=True, type='mmfreq.GFNetCNN', arch='gfnet-cnn-t', img_size=512, drop_path_rate=0.4),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(num_layers=6), clip_grad=dict(max_norm=1.0, norm_type=2))
train_dataloader = dict(batch_size=2)

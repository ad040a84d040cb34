# UPerNet + GFNet-S on ADE20K, for comparing token mixers. There is no published score.
# All families use the same recipe, that of HorNet-Tiny; this is our own choice.
# All maps of GFNet have stride 16; mmseg's Feature2Pyramid resizes them to strides 4 to 32.
_base_ = [
    '../../_base_/models/upernet_hornet.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_160k.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmfreq.GFNet',
        arch='gfnet-s',
        img_size=512,
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://gfnet-s/in1k'),
    ),
    neck=dict(type='Feature2Pyramid', embed_dim=384, rescales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(num_layers=6), clip_grad=dict(max_norm=1.0, norm_type=2))
train_dataloader = dict(batch_size=2)

# UPerNet + AFFNet on ADE20K, for comparing token mixers. There is no published score.
# All families use the same recipe, that of HorNet-Tiny; this is our own choice.
# Images are divided by 255, as the weights require; no drop path, as published.
_base_ = [
    '../../_base_/models/upernet_hornet.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_160k.py',
]
data_preprocessor = dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0])
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        _delete_=True,
        type='mmfreq.AFFNet',
        arch='affnet',
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://affnet/in1k'),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 320]),
    auxiliary_head=dict(in_channels=256),
)
optim_wrapper = dict(paramwise_cfg=dict(num_layers=6), clip_grad=dict(max_norm=1.0, norm_type=2))
train_dataloader = dict(batch_size=2)

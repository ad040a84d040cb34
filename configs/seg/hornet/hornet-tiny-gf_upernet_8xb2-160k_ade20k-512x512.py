# UPerNet + HorNet-Tiny (GF) on ADE20K. Published: 49.2 mIoU, 49.3 with multi-scale and flip.
_base_ = [
    '../../_base_/models/upernet_hornet.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_160k.py',
]
model = dict(
    backbone=dict(
        arch='hornet-tiny-gf', drop_path_rate=0.4, init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-tiny-gf/in1k-dense')
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
optim_wrapper = dict(paramwise_cfg=dict(num_layers=6), clip_grad=dict(max_norm=1.0, norm_type=2))
train_dataloader = dict(batch_size=2)

# UPerNet + HorNet-Tiny (7x7) on ADE20K. Published: 48.1 mIoU, 48.9 with multi-scale and flip.
_base_ = [
    '../../_base_/models/upernet_hornet.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_160k.py',
]
model = dict(
    backbone=dict(
        arch='hornet-tiny-7x7',
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-tiny-7x7/in1k-dense'),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
optim_wrapper = dict(paramwise_cfg=dict(num_layers=6))
train_dataloader = dict(batch_size=2)

# UPerNet + HorNet-Small (GF) on ADE20K. Published: 50.0 mIoU, 50.5 with multi-scale and flip.
_base_ = [
    '../../_base_/models/upernet_hornet.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_160k.py',
]
model = dict(
    backbone=dict(
        arch='hornet-small-gf',
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-small-gf/in1k-dense'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0, norm_type=2))
train_dataloader = dict(batch_size=2)

# UPerNet + HorNet-Micro (GF) on generated shapes: minutes on two CPU cores. Our own recipe; there is no published score.
# The heads use group norm, which has no batch statistics, so that many processes with one image each train like one batch.
_base_ = [
    '../../_base_/models/upernet_hornet.py',
    '../../_base_/datasets/toy.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_160k.py',
]
norm_cfg = dict(_delete_=True, type='GN', num_groups=8)
data_preprocessor = dict(size=(128, 128))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(arch='hornet-micro', img_size=128, drop_path_rate=0.0),
    decode_head=dict(in_channels=[16, 32, 64, 128], channels=32, num_classes=6, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=64, channels=32, num_classes=6, norm_cfg=norm_cfg),
    test_cfg=dict(_delete_=True, mode='whole'),
)
optim_wrapper = dict(optimizer=dict(lr=4e-3), paramwise_cfg=dict(decay_rate=1.0), clip_grad=dict(max_norm=1.0, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=20, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=20, end=400, by_epoch=False),
]
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_iters=400, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=200), logger=dict(interval=20))

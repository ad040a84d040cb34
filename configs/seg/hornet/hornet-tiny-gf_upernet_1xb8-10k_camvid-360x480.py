# UPerNet + HorNet-Tiny (GF) on CamVid, for one small GPU. Our own recipe; there is no published score.
# It starts from random values and needs no network. ImageNet weights: --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=mmfreq://hornet-tiny-gf
_base_ = [
    '../../_base_/models/upernet_hornet.py',
    '../../_base_/datasets/camvid_360x480.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_160k.py',
]
data_preprocessor = dict(size=(360, 480))
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(channels=256, num_classes=11),
    auxiliary_head=dict(num_classes=11),
    test_cfg=dict(_delete_=True, mode='whole'),
)
optim_wrapper = dict(optimizer=dict(lr=4e-4), paramwise_cfg=dict(num_layers=6), clip_grad=dict(max_norm=1.0, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=500, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=500, end=10000, by_epoch=False),
]
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_iters=10000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000))

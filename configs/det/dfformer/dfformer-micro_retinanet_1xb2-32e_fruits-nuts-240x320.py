# RetinaNet + DFFormer-Micro on 10 photographs of fruits and nuts, from scratch: minutes on two CPU cores. Our own recipe;
# measured: 55.8 box AP (docs/measurements/fruits_nuts_cpu.md).
_base_ = [
    '../../_base_/models/retinanet_dfformer.py',
    '../../_base_/datasets/fruits_nuts.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
norm_cfg = dict(type='GN', num_groups=8)
model = dict(
    backbone=dict(arch='dfformer-micro', img_size=256),
    neck=dict(in_channels=[32, 48, 64], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, num_classes=3, norm_cfg=norm_cfg),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=10.0, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=32, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=2)
train_cfg = dict(max_epochs=32, val_interval=16)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=16))
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator

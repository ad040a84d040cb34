# Mask R-CNN + HorNet-Micro (GF) on 10 photographs of fruits and nuts, from scratch: minutes on two CPU cores. Our own recipe;
# measured: 52.1 box AP, 66.5 mask AP (docs/measurements/fruits_nuts_cpu.md).
_base_ = [
    '../../_base_/models/mask_rcnn_micro.py',
    '../../_base_/datasets/fruits_nuts.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
model = dict(
    backbone=dict(img_size=256),
    roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=10.0, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=16, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=2)
train_cfg = dict(max_epochs=16, val_interval=8)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=8))

# Mask R-CNN + HorNet-Micro (GF) on generated shapes: minutes on two CPU cores. Our own recipe; there is no published score.
_base_ = [
    '../../_base_/models/mask_rcnn_micro.py',
    '../../_base_/datasets/toy_coco.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
model = dict(
    backbone=dict(img_size=160),
    rpn_head=dict(anchor_generator=dict(scales=[5])),
    roi_head=dict(bbox_head=dict(num_classes=5), mask_head=dict(num_classes=5)),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=10.0, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=8, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=4)
train_cfg = dict(max_epochs=8, val_interval=4)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=4))

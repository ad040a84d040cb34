# Mask R-CNN + HorNet-Micro (GF) on generated shapes: minutes on two CPU cores. Our recipe.
_base_ = [
    '../../_base_/models/mask_rcnn.py',
    '../../_base_/datasets/toy_coco.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
model = dict(
    backbone=dict(arch='hornet-micro', img_size=160, drop_path_rate=0.0),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[5])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=5),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=5),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=200)),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=10.0, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=8, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=4)
train_cfg = dict(max_epochs=8, val_interval=4)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=4))

# Cascade Mask R-CNN as in HorNet's COCO configs: box heads of 4 convolutions and 1 linear layer with SyncBN, one box per
# class, GIoU on decoded boxes. A leaf config sets arch, drop path and the neck's in_channels.
_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'
box_head = dict(
    type='ConvFCBBoxHead',
    num_shared_convs=4,
    num_shared_fcs=1,
    in_channels=256,
    conv_out_channels=256,
    fc_out_channels=1024,
    roi_feat_size=7,
    num_classes=80,
    reg_class_agnostic=False,
    reg_decoded_bbox=True,
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
)
coders = [
    dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[center, center, side, side])
    for center, side in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
]
model = dict(
    backbone=dict(_delete_=True, type='mmfreq.HorNet', arch='hornet-tiny-gf', drop_path_rate=0.4),
    neck=dict(in_channels=[64, 128, 256, 512]),
    roi_head=dict(bbox_head=[dict(box_head, bbox_coder=coder) for coder in coders]),
)

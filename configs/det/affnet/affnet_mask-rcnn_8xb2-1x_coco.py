# Mask R-CNN + AFFNet on COCO, 1x, to compare token mixers.
# The same recipe for every family, DFFormer's for RetinaNet (PVT's); our choice, no published number.
_base_ = [
    '../../_base_/models/mask_rcnn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
model = dict(
    data_preprocessor=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0]),
    backbone=dict(_delete_=True, type='mmfreq.AFFNet', arch='affnet', drop_path_rate=0.0),
    neck=dict(in_channels=[64, 128, 256, 320]),
)

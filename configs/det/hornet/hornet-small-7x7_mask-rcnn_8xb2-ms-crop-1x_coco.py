# Mask R-CNN + HorNet-Small (7x7) with FPN on COCO, 1x, as in the authors' code. Published AP: unknown.
_base_ = [
    '../../_base_/models/mask_rcnn.py',
    '../../_base_/datasets/coco_instance_ms_crop.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_1x.py',
]
model = dict(
    backbone=dict(
        arch='hornet-small-7x7',
        drop_path_rate=0.6,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-small-7x7/in1k-dense'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

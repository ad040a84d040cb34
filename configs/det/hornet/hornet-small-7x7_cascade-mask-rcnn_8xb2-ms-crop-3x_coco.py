# Cascade Mask R-CNN + HorNet-Small (7x7) on COCO, 3x. Published: 52.7 box AP, 45.6 mask AP.
_base_ = [
    '../../_base_/models/cascade_mask_rcnn_hornet.py',
    '../../_base_/datasets/coco_instance_ms_crop.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_3x.py',
]
model = dict(
    backbone=dict(
        arch='hornet-small-7x7',
        drop_path_rate=0.6,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-small-7x7/in1k-dense'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

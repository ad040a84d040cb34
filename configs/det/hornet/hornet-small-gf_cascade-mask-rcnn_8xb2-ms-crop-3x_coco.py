# Cascade Mask R-CNN + HorNet-Small (GF) on COCO, 3x. Published: 53.3 box AP, 46.3 mask AP.
_base_ = [
    '../../_base_/models/cascade_mask_rcnn_hornet.py',
    '../../_base_/datasets/coco_instance_ms_crop.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_3x.py',
]
model = dict(
    backbone=dict(
        arch='hornet-small-gf',
        drop_path_rate=0.6,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-small-gf/in1k-dense'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

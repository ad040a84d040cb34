# Cascade Mask R-CNN + HorNet-Tiny (GF) on COCO, 3x. Published: 52.4 box AP, 45.6 mask AP.
_base_ = [
    '../../_base_/models/cascade_mask_rcnn_hornet.py',
    '../../_base_/datasets/coco_instance_ms_crop.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_3x.py',
]
model = dict(
    backbone=dict(
        arch='hornet-tiny-gf', drop_path_rate=0.4, init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-tiny-gf/in1k-dense')
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

# Cascade Mask R-CNN + HorNet-Base (7x7) on COCO, 3x. Published: 53.3 box AP, 46.1 mask AP.
_base_ = [
    '../../_base_/models/cascade_mask_rcnn_hornet.py',
    '../../_base_/datasets/coco_instance_ms_crop.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_3x.py',
]
model = dict(
    backbone=dict(
        arch='hornet-base-7x7',
        drop_path_rate=0.7,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-base-7x7/in1k-dense'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8))

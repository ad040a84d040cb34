# Cascade Mask R-CNN + HorNet-Tiny (GF) on COCO, 3x. Published: 52.4 box AP, 45.6 mask AP.
_base_ = [
    '../../_base_/models/cascade_mask_rcnn_hornet.py',
    '../../_base_/datasets/coco_instance_ms_crop.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_3x.py',
]
imagenet_checkpoint = 'https://cloud.tsinghua.edu.cn/f/511faad0bde94dfcaa54/?dl=1'
model = dict(backbone=dict(arch='hornet-tiny-gf', drop_path_rate=0.4), neck=dict(in_channels=[64, 128, 256, 512]))

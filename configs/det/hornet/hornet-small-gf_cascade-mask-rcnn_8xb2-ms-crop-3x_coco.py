# Cascade Mask R-CNN + HorNet-Small (GF) on COCO, 3x. Published: 53.3 box AP, 46.3 mask AP.
_base_ = [
    '../../_base_/models/cascade_mask_rcnn_hornet.py',
    '../../_base_/datasets/coco_instance_ms_crop.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_3x.py',
]
imagenet_checkpoint = 'https://cloud.tsinghua.edu.cn/f/8405c984bf084d2ba85a/?dl=1'
model = dict(backbone=dict(arch='hornet-small-gf', drop_path_rate=0.6), neck=dict(in_channels=[96, 192, 384, 768]))

# Mask R-CNN + HorNet-Small (7x7) with FPN on COCO, 1x, as in the authors' code. Published AP: unknown.
_base_ = [
    '../../_base_/models/mask_rcnn.py',
    '../../_base_/datasets/coco_instance_ms_crop.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_1x.py',
]
imagenet_checkpoint = 'https://cloud.tsinghua.edu.cn/f/46422799db2941f7b684/?dl=1'
model = dict(backbone=dict(arch='hornet-small-7x7', drop_path_rate=0.6), neck=dict(in_channels=[96, 192, 384, 768]))

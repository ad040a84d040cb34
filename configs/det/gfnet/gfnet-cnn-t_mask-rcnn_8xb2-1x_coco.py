# Mask R-CNN + GFNet-CNN-T (our reconstruction) on COCO, 1x, for comparing token mixers. There are no published weights or scores.
# All families use the same recipe, that of DFFormer's RetinaNet (from PVT); this is our own choice.
_base_ = [
    '../../_base_/models/mask_rcnn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
model = dict(
    backbone=dict(_delete_=True, type='mmfreq.GFNetCNN', arch='gfnet-cnn-t', img_size=800, drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

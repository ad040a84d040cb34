# Mask R-CNN + DFFormer-S18 on COCO, 1x, to compare token mixers.
# The same recipe for every family, DFFormer's for RetinaNet (PVT's); our choice, no published number.
_base_ = [
    '../../_base_/models/mask_rcnn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
imagenet_checkpoint = 'https://github.com/okojoalg/dfformer/releases/download/weights/dfformer_s18.pth'
model = dict(
    backbone=dict(_delete_=True, type='mmfreq.DFFormer', arch='dfformer-s18', img_size=800, drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

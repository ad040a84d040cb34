# Mask R-CNN + CDFFormer-S18 on COCO, 1x, for comparing token mixers. There is no published score.
# All families use the same recipe, that of DFFormer's RetinaNet (from PVT); this is our own choice.
_base_ = [
    '../../_base_/models/mask_rcnn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmfreq.DFFormer',
        arch='cdfformer-s18',
        img_size=800,
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://cdfformer-s18/in1k'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

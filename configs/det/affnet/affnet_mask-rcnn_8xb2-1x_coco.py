# Mask R-CNN + AFFNet on COCO, 1x, for comparing token mixers. There is no published score.
# All families use the same recipe, that of DFFormer's RetinaNet (from PVT); this is our own choice.
_base_ = [
    '../../_base_/models/mask_rcnn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
model = dict(
    data_preprocessor=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0]),
    backbone=dict(
        _delete_=True,
        type='mmfreq.AFFNet',
        arch='affnet',
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://affnet/in1k'),
    ),
    neck=dict(in_channels=[64, 128, 256, 320]),
)

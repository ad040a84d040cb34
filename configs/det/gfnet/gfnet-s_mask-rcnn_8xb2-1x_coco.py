# Mask R-CNN + GFNet-S on COCO, 1x, for comparing token mixers. There is no published score.
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
        type='mmfreq.GFNet',
        arch='gfnet-s',
        img_size=800,
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://gfnet-s/in1k'),
    ),
    neck=[
        dict(type='mmseg.Feature2Pyramid', embed_dim=384, rescales=[4, 2, 1, 0.5]),
        dict(type='FPN', in_channels=[384, 384, 384, 384], out_channels=256, num_outs=5),
    ],
)

# Mask R-CNN with mmdet's FPN. A leaf config sets the backbone and the neck's in_channels.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
model = dict(
    backbone=dict(_delete_=True, type='mmfreq.HorNet', arch='hornet-tiny-gf', drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

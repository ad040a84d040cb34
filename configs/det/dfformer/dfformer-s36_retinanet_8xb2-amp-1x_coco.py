# RetinaNet + DFFormer-S36 on COCO, 1x, the published config. Box AP 45.3, from a secondary source (5.8 above PoolFormer-S36).
# Published with NVIDIA Apex O1; here with PyTorch's mixed precision.
_base_ = [
    '../../_base_/models/retinanet_dfformer.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
model = dict(
    backbone=dict(arch='dfformer-s36', init_cfg=dict(type='Pretrained', checkpoint='mmfreq://dfformer-s36/in1k')),
    neck=dict(in_channels=[128, 320, 512]),
)
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')

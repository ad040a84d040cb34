# RetinaNet + DFFormer-M36 on COCO, 1x, the published config. Published box AP: unknown.
# Published with NVIDIA Apex O1; here with PyTorch's mixed precision.
_base_ = [
    '../../_base_/models/retinanet_dfformer.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
model = dict(
    backbone=dict(arch='dfformer-m36', init_cfg=dict(type='Pretrained', checkpoint='mmfreq://dfformer-m36/in1k')),
    neck=dict(in_channels=[192, 384, 576]),
)
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')

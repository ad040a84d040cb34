# RetinaNet + DFFormer-S18 on COCO, 1x, the published config. Published box AP: unknown.
# Published with NVIDIA Apex O1; here with PyTorch's mixed precision.
_base_ = [
    '../../_base_/models/retinanet_dfformer.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
model = dict(backbone=dict(arch='dfformer-s18', init_cfg=dict(type='Pretrained', checkpoint='mmfreq://dfformer-s18/in1k')))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')

# RetinaNet + DFFormer-S18 on COCO, 1x, the published config. Published box AP: unknown.
# Published with NVIDIA Apex O1; here with PyTorch's mixed precision.
_base_ = [
    '../../_base_/models/retinanet_dfformer.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/adamw_1x.py',
]
imagenet_checkpoint = 'https://github.com/okojoalg/dfformer/releases/download/weights/dfformer_s18.pth'
model = dict(backbone=dict(arch='dfformer-s18'))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')

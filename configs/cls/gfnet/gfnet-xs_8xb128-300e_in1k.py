# gfnet-xs on ImageNet-1k. Published: 78.6 top-1, 94.2 top-5.
_base_ = [
    '../../_base_/models/image_classifier.py',
    '../../_base_/datasets/imagenet_gfnet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/gfnet_in1k_300e.py',
]
published_checkpoint = 'mmfreq://gfnet-xs/in1k'
model = dict(arch='gfnet-xs', drop_path_rate=0.0)

# gfnet-h-b on ImageNet-1k. Published: 82.9 top-1, 96.2 top-5.
_base_ = [
    '../../_base_/models/image_classifier.py',
    '../../_base_/datasets/imagenet_gfnet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/gfnet_in1k_300e.py',
]
published_checkpoint = 'mmfreq://gfnet-h-b/in1k'
model = dict(arch='gfnet-h-b', drop_path_rate=0.4)

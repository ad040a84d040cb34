# gfnet-b on ImageNet-1k. Published: 80.7 top-1, 95.1 top-5.
_base_ = [
    '../../_base_/models/image_classifier.py',
    '../../_base_/datasets/imagenet_gfnet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/gfnet_in1k_300e.py',
]
published_checkpoint = 'mmfreq://gfnet-b/in1k'
model = dict(arch='gfnet-b', drop_path_rate=0.25)

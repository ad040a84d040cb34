# affnet-et on ImageNet-1k at 256. Published: 73.0 top-1 (averaged weights).
_base_ = [
    '../../_base_/models/image_classifier_plain.py',
    '../../_base_/datasets/imagenet_affnet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/affnet_in1k_300e.py',
]
model = dict(arch='affnet-et')

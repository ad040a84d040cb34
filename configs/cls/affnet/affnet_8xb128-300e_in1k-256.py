# affnet on ImageNet-1k at 256. Published: 79.8 top-1 (averaged weights).
# The recipe is that of affnet-et: the one of this size is not published, so using it is our own choice.
_base_ = [
    '../../_base_/models/image_classifier_plain.py',
    '../../_base_/datasets/imagenet_affnet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/affnet_in1k_300e.py',
]
model = dict(arch='affnet')

# cdfformer-s18 on ImageNet-1k. Published top-1: unknown.
# The published recipe is for dfformer-s18; the drop path rate of this size is our own choice.
_base_ = [
    '../../_base_/models/image_classifier.py',
    '../../_base_/datasets/imagenet_dfformer.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/dfformer_in1k_310e.py',
]
published_checkpoint = 'mmfreq://cdfformer-s18/in1k'
model = dict(arch='cdfformer-s18', drop_path_rate=0.2)

# gfformer-s18 on ImageNet-1k, an ablation of the paper; no weights were published, top-1: unknown.
# The drop path rate is our choice: the published recipe is that of dfformer-s18.
_base_ = [
    '../../_base_/models/image_classifier.py',
    '../../_base_/datasets/imagenet_dfformer.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/dfformer_in1k_310e.py',
]
model = dict(arch='gfformer-s18', drop_path_rate=0.2)

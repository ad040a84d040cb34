# gfnet-xs on ImageNet-1k. Published: 78.6 top-1, 94.2 top-5.
_base_ = [
    '../../_base_/models/image_classifier.py',
    '../../_base_/datasets/imagenet_gfnet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/gfnet_in1k_300e.py',
]
published_checkpoint = 'https://cloud.tsinghua.edu.cn/f/e0ab5b1583954a1fa9b2/?dl=1'
model = dict(arch='gfnet-xs', drop_path_rate=0.0)

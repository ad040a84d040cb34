# gfnet-h-s on ImageNet-1k. Published: 81.5 top-1, 95.6 top-5.
_base_ = [
    '../../_base_/models/image_classifier.py',
    '../../_base_/datasets/imagenet_gfnet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/gfnet_in1k_300e.py',
]
published_checkpoint = 'https://cloud.tsinghua.edu.cn/f/5229cb4d1daf48e69675/?dl=1'
model = dict(arch='gfnet-h-s', drop_path_rate=0.2)

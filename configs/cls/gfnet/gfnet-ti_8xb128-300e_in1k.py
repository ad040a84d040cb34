# gfnet-ti on ImageNet-1k. Published: 74.6 top-1, 92.2 top-5.
_base_ = [
    '../../_base_/models/image_classifier.py',
    '../../_base_/datasets/imagenet_gfnet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/gfnet_in1k_300e.py',
]
published_checkpoint = 'https://cloud.tsinghua.edu.cn/f/3d0c1579aa524a0a99dd/?dl=1'
model = dict(arch='gfnet-ti', drop_path_rate=0.0)

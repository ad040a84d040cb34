# gfnet-h-b on ImageNet-1k. Published: 82.9 top-1, 96.2 top-5.
_base_ = [
    '../../_base_/models/image_classifier.py',
    '../../_base_/datasets/imagenet_gfnet.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/gfnet_in1k_300e.py',
]
published_checkpoint = 'https://cloud.tsinghua.edu.cn/f/954c5af21e824ba6b40c/?dl=1'
model = dict(arch='gfnet-h-b', drop_path_rate=0.4)

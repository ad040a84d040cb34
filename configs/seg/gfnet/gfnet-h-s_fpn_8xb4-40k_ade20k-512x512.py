# Semantic FPN + GFNet-H-S on ADE20K in PVT's setting. mIoU 42.5 in the paper's table, recalled from memory; the number of
# parameters agrees.
# The authors' configs were not released: the drop path rate of the ImageNet training is our own choice.
_base_ = [
    '../../_base_/models/semantic_fpn.py',
    '../../_base_/datasets/ade20k_multiple_of_32.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/semantic_fpn_40k.py',
]
model = dict(
    backbone=dict(
        type='mmfreq.GFNetPyramid',
        arch='gfnet-h-s',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://gfnet-h-s/in1k'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

# Semantic FPN + DFFormer-M36 on ADE20K, the published config. Published mIoU: unknown.
_base_ = [
    '../../_base_/models/semantic_fpn.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/semantic_fpn_40k.py',
]
model = dict(
    backbone=dict(arch='dfformer-m36', init_cfg=dict(type='Pretrained', checkpoint='mmfreq://dfformer-m36/in1k')),
    neck=dict(in_channels=[96, 192, 384, 576]),
)

# SSDLite + AFFNet-T on COCO at 320x320. Box AP 25.3, from a secondary source. Neither the recipe nor the widths of the head are
# published; see the base configs.
_base_ = [
    '../../_base_/models/ssdlite_affnet.py',
    '../../_base_/datasets/coco_320x320.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/affnet_ssd_200e.py',
]
model = dict(
    backbone=dict(arch='affnet-t', init_cfg=dict(type='Pretrained', checkpoint='mmfreq://affnet-t/in1k')),
    neck=dict(in_channels=[160, 192]),
    bbox_head=dict(in_channels=[160, 192, 256, 128, 128, 64]),
)

# UPerNet + AFFNet of width 48 on CamVid in small crops, from scratch: our own recipe for comparing token mixers of equal size.
_base_ = [
    '../../_base_/models/upernet_small.py',
    '../../_base_/datasets/camvid_180x240.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/camvid_800.py',
]
model = dict(
    backbone=dict(type='mmfreq.AFFNet', arch=dict(_delete_=True, channels=(48, 80, 160, 352), expand=2)),
    decode_head=dict(in_channels=[48, 80, 160, 352]),
    auxiliary_head=dict(in_channels=160),
)

# UPerNet + DFFormer of width 32 on CamVid in small crops, from scratch: our own recipe for comparing token mixers of equal size.
_base_ = [
    '../../_base_/models/upernet_small.py',
    '../../_base_/datasets/camvid_180x240.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/camvid_800.py',
]
model = dict(
    backbone=dict(
        type='mmfreq.DFFormer',
        arch=dict(_delete_=True, dims=(32, 64, 128, 256), depths=(2, 2, 4, 2), mixers=('dynamic', 'dynamic', 'dynamic', 'dynamic')),
    ),
    decode_head=dict(in_channels=[32, 64, 128, 256]),
    auxiliary_head=dict(in_channels=128),
)

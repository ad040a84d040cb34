# UPerNet + GFNet-H of width 40 on CamVid in small crops, from scratch: our own recipe for comparing token mixers of equal size.
_base_ = [
    '../../_base_/models/upernet_small.py',
    '../../_base_/datasets/camvid_180x240.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/camvid_800.py',
]
model = dict(
    backbone=dict(
        type='mmfreq.GFNetPyramid', arch=dict(_delete_=True, dims=(40, 80, 160, 256), depths=(2, 2, 6, 2), layer_scale=1e-3)
    ),
    decode_head=dict(in_channels=[40, 80, 160, 256]),
    auxiliary_head=dict(in_channels=160),
)

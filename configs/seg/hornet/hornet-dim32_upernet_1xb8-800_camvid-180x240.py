# UPerNet + HorNet of width 32, global-local filters in stages 3 and 4, on CamVid in small crops, from random weights.
# For comparing token mixers at equal size, by one recipe of our own: a quarter of an hour on two CPU cores.
_base_ = [
    '../../_base_/models/upernet_small.py',
    '../../_base_/datasets/camvid_180x240.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/camvid_800.py',
]
model = dict(
    backbone=dict(arch=dict(_delete_=True, base_dim=32, depths=(2, 2, 6, 2), global_filter=(False, False, True, True))),
)

# UPerNet + HorNet-Tiny (GF) on CamVid at full size, from random weights: the reference of part `camvid` of benchmarks/gpu.py.
_base_ = [
    '../../configs/_base_/models/upernet_small.py',
    '../../configs/_base_/datasets/camvid_360x480.py',
    'mmseg::_base_/default_runtime.py',
    '../../configs/_base_/schedules/camvid_800.py',
]
data_preprocessor = dict(size=(360, 480))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(arch='hornet-tiny-gf', img_size=384),
    decode_head=dict(in_channels=[64, 128, 256, 512], channels=256),
    auxiliary_head=dict(in_channels=256, channels=256),
)
optim_wrapper = dict(optimizer=dict(lr=4e-4))

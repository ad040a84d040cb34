# DFFormer-S18 in the comparison of backbones on CamVid at full size.
_base_ = './hornet-tiny-gf_upernet_1xb8-800_camvid-360x480.py'
model = dict(
    backbone=dict(type='mmfreq.DFFormer', arch='dfformer-s18'),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)

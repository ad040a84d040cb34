# GFNet-H-Ti in the comparison of backbones on CamVid at full size.
_base_ = './hornet-tiny-gf_upernet_1xb8-800_camvid-360x480.py'
model = dict(backbone=dict(type='mmfreq.GFNetPyramid', arch='gfnet-h-ti'))

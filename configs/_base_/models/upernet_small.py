# UPerNet for small backbones without pretrained weights, in crops of 180x240: 64 channels, GroupNorm, CamVid's 11 classes.
# A leaf config sets the backbone's arch and the heads' in_channels.
_base_ = './upernet_hornet.py'
norm_cfg = dict(_delete_=True, type='GN', num_groups=8)
data_preprocessor = dict(size=(180, 240))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(img_size=224, drop_path_rate=0.0),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=64, num_classes=11, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=128, channels=64, num_classes=11, norm_cfg=norm_cfg),
    test_cfg=dict(_delete_=True, mode='whole'),
)

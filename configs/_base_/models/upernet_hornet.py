# UPerNet as in HorNet's ADE20K configs. A leaf config sets arch, drop path and the heads' in_channels.
_base_ = 'mmseg::_base_/models/upernet_r50.py'
data_preprocessor = dict(size=(512, 512))
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(_delete_=True, type='mmfreq.HorNet', arch='hornet-tiny-gf', img_size=384, drop_path_rate=0.4),
    decode_head=dict(in_channels=[64, 128, 256, 512], num_classes=150),
    auxiliary_head=dict(in_channels=256, num_classes=150),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)

# DeepLabv3 as in AFFNet's published segmentors: output stride 16, ASPP of 256 channels at rates 6, 12, 18, no auxiliary head,
# images divided by 255. A leaf config sets arch, in_channels and num_classes.
_base_ = 'mmseg::_base_/models/deeplabv3_r50-d8.py'
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], size=(512, 512))
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(_delete_=True, type='mmfreq.AFFNet', arch='affnet-et', output_stride=16, out_indices=(3,)),
    decode_head=dict(
        _delete_=True,
        type='mmfreq.AFFNetASPPHead',
        in_channels=144,
        in_index=0,
        channels=256,
        dilations=(1, 6, 12, 18),
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
)

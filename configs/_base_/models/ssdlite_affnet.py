# SSDLite as in CVNets, for 320x320, with images divided by 255. The widths of AFFNet's published detectors are unknown; these are
# those of CVNets' MobileViT configs. A leaf config sets arch and in_channels.
model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True, pad_size_divisor=1
    ),
    backbone=dict(type='mmfreq.AFFNet', arch='affnet-et', out_indices=(2, 3)),
    neck=dict(type='mmfreq.AFFNetSSDLiteNeck', in_channels=[104, 144], norm_cfg=dict(type='SyncBN')),
    bbox_head=dict(
        type='mmfreq.AFFNetSSDLiteHead', in_channels=[104, 144, 256, 128, 128, 64], num_classes=80, norm_cfg=dict(type='SyncBN')
    ),
)

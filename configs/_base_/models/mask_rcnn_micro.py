# Mask R-CNN with 64 channels and HorNet-Micro (GF), which trains in minutes on a CPU. A leaf config sets the number of classes.
_base_ = './mask_rcnn.py'
model = dict(
    backbone=dict(arch='hornet-micro', drop_path_rate=0.0),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=200)),
)

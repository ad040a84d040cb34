# Semantic FPN as in PVT, GFNet and DFFormer. A leaf config sets type and arch of the backbone, and the
# neck's in_channels; img_size=512 is inherited.
_base_ = 'mmseg::_base_/models/fpn_r50.py'
data_preprocessor = dict(size=(512, 512))
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(_delete_=True, type='mmfreq.DFFormer', arch='dfformer-s18', img_size=512),
    neck=dict(in_channels=[64, 128, 320, 512]),
    decode_head=dict(num_classes=150),
)

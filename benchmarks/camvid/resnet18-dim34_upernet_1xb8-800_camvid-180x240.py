# ResNet-18 of width 34 (mmseg) in the comparison of backbones on CamVid.
_base_ = '../../configs/seg/hornet/hornet-dim32_upernet_1xb8-800_camvid-180x240.py'
model = dict(
    backbone=dict(_delete_=True, type='mmseg.ResNet', depth=18, base_channels=34, stem_channels=16, num_stages=4),
    decode_head=dict(in_channels=[34, 68, 136, 272]),
    auxiliary_head=dict(in_channels=136),
)

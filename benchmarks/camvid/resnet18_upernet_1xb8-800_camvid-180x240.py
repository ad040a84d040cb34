# ResNet-18 with the UPerNet head, in the comparison of decoders on CamVid.
_base_ = '../../configs/seg/hornet/hornet-dim32_upernet_1xb8-800_camvid-180x240.py'
model = dict(
    backbone=dict(_delete_=True, type='mmseg.ResNet', depth=18, num_stages=4),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)

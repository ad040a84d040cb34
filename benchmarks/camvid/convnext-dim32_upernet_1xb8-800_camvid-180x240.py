# ConvNeXt of width 32 (mmpretrain) in the comparison of backbones on CamVid.
_base_ = '../../configs/seg/hornet/hornet-dim32_upernet_1xb8-800_camvid-180x240.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=[3, 3, 9, 3], channels=[32, 64, 128, 256]),
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
    ),
)

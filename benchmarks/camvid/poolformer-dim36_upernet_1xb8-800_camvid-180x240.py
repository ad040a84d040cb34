# PoolFormer of width 36 (mmpretrain) in the comparison of backbones on CamVid.
_base_ = '../../configs/seg/hornet/hornet-dim32_upernet_1xb8-800_camvid-180x240.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.PoolFormer',
        arch=dict(layers=[2, 2, 6, 2], embed_dims=[36, 72, 144, 288], mlp_ratios=[4, 4, 4, 4], layer_scale_init_value=1e-5),
        out_indices=(0, 2, 4, 6),
        frozen_stages=-1,
    ),
    decode_head=dict(in_channels=[36, 72, 144, 288]),
    auxiliary_head=dict(in_channels=144),
)

# AFFNet's segmentation schedule with 40000 iterations.
_base_ = './affnet_seg.py'
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=501, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=500, end=40000, by_epoch=False),
]

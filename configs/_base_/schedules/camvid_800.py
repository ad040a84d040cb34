# 800 iterations from random weights, for small models on CamVid: AdamW, linear warm-up, linear decay to 0. Our own choice.
_base_ = './hornet_160k.py'
optim_wrapper = dict(
    optimizer=dict(lr=2e-3), paramwise_cfg=dict(decay_rate=1.0, num_layers=6), clip_grad=dict(max_norm=1.0, norm_type=2)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=50, end=800, by_epoch=False),
]
train_cfg = dict(max_iters=800, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=200))

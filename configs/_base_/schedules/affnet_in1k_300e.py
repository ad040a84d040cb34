# AFFNet-ET's ImageNet-1k schedule: AdamW at a total batch of 1024, 16 epochs of warm-up from 1e-6 to 9e-3, cosine to 9e-4, averaged
# weights. Vectors and biases are not decayed; the mixers' b1 and b2 are not vectors and are decayed.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=9e-3, betas=(0.9, 0.999), weight_decay=0.008),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / 9e-3, by_epoch=True, end=16, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=9e-4, by_epoch=True, begin=16, end=300),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
sync_bn = 'torch'
custom_hooks = [dict(type='EMAHook', momentum=5e-4, update_buffers=True, priority='ABOVE_NORMAL')]
auto_scale_lr = dict(base_batch_size=1024)

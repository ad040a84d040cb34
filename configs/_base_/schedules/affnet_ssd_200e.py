# AFFNet's detection schedule is not published. This is CVNets' for SSDLite at a total batch of 128: AdamW, 200 epochs, 500
# iterations from 9e-5 to 9e-4, cosine to 1e-6, averaged weights; weight decay 0.05 as in AFIDAF, which builds on AFFNet.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=9e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=501),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=0, end=200, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
custom_hooks = [dict(type='EMAHook', momentum=5e-4, update_buffers=True, priority='ABOVE_NORMAL')]
auto_scale_lr = dict(enable=False, base_batch_size=128)

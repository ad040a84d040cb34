# AFFNet's segmentation schedule is not published. This is that of MobileViT's DeepLabv3 in CVNets: AdamW, weight
# decay 0.01, 500 iterations from 9e-5 to 9e-4, cosine to 1e-6, learning rate x10 in the head, mixed precision, averaged weights.
# A leaf config sets the number of iterations; the published 50 epochs are of VOC with SBD and COCO.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=9e-4, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'decode_head': dict(lr_mult=10.0)}),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
custom_hooks = [dict(type='EMAHook', momentum=5e-4, update_buffers=True, priority='ABOVE_NORMAL')]
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=8000),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=501, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=500, end=80000, by_epoch=False),
]

# HorNet's COCO schedule: AdamW with layer-wise decay, 36 epochs, steps at 27 and 33, 500 iterations of linear warm-up from a
# thousandth. mmengine's LinearLR reaches its end value one step early, hence 501.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
train_cfg = dict(max_epochs=36)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmfreq.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', num_layers=12),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=501),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]

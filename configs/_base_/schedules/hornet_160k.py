# HorNet's ADE20K schedule: AdamW, stage-wise layer decay, linear warm-up times a linear decay to 0.
# mmengine's schedulers reach their end value after end - begin - 1 steps, the published ones after 1500 and 160000.
_base_ = 'mmseg::_base_/schedules/schedule_160k.py'
optimizer = None
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmfreq.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.9, decay_type='stage_wise', num_layers=12),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1501, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=160001, by_epoch=False),
]

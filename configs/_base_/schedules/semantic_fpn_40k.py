# PVT's Semantic FPN schedule, which GFNet and DFFormer use: AdamW at a total batch of 32, weight decay on every
# parameter, power 0.9 to 0 without warm-up. mmengine's PolyLR reaches its end value one step early, hence 40001.
_base_ = 'mmseg::_base_/schedules/schedule_40k.py'
optimizer = None
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=1e-4)
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=40001, by_epoch=False)]

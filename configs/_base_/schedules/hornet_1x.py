# The schedule of HorNet's Mask R-CNN configs (FPN against HorFPN): 12 epochs. Their layer-wise decay sets 6 layers although layer
# ids go up to 12, so the last stages have higher learning rates than the heads (negative exponents), as published.
_base_ = './hornet_3x.py'
train_cfg = dict(max_epochs=12)
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.95, num_layers=6))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=501),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]

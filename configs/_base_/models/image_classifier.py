# A published classifier with label smoothing, mixup and cutmix. A leaf config sets the arch and the drop path rate.
model = dict(
    type='mmfreq.FrequencyImageClassifier',
    arch='hornet-tiny-gf',
    num_classes=1000,
    loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)

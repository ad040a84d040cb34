# GFNet's ImageNet-1k schedule: AdamW at a total batch of 1024, 5 epochs of warm-up from 1e-6, cosine to 1e-5, clipping at 1.
# Vectors, biases and position embeddings are not decayed; the filters are.
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0, custom_keys={'pos_embed': dict(decay_mult=0.0)}
    ),
    clip_grad=dict(max_norm=1.0),
)
# By epochs, the cosine from epoch 0 on, under the warm-up. mmengine reaches a scheduler's last value one epoch before its end.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=6),
    dict(type='CosineAnnealingLR', T_max=300, eta_min=1e-5, by_epoch=True, end=301),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024)

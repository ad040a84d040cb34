# ImageNet-1k at 384 as HorNet evaluates it: the image is warped to the square.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_384.py'
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(384, 384), backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

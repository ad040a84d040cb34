# ImageNet-1k as in DFFormer's recipe. Test: shorter side 224, center crop 224, bicubic (no margin).
# The published training selects bilinear or bicubic at random for each image; here it is bicubic.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=224, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

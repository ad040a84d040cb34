# PASCAL VOC 2012 with the augmented annotations (SBD). AFFNet's ancestors train on images of COCO too, which mmseg has no set for.
_base_ = 'mmseg::_base_/datasets/pascal_voc12_aug.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmfreq.ResizeDownToMultiple', size_divisor=16),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset_train = dict(pipeline=train_pipeline)
dataset_aug = dict(pipeline=train_pipeline)
train_dataloader = dict(dataset=dict(datasets=[dataset_train, dataset_aug]))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

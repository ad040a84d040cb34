# PASCAL VOC 2012 with the augmented annotations (SBD). CVNets also trains on images of COCO, which mmseg does not support.
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
datasets = [dict(part, pipeline=train_pipeline) for part in (_base_.dataset_train, _base_.dataset_aug)]
train_dataloader = dict(dataset=dict(datasets=datasets))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

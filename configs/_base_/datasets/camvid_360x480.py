# CamVid, 11 classes, 480x360 frames, in ADE20K's folders: images/{training,validation}, annotations/{training,validation}.
_base_ = 'mmseg::_base_/datasets/ade20k.py'
dataset_type = 'mmfreq.CamVidDataset'
data_root = 'data/camvid'
crop_size = (360, 480)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.75, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(480, 360), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
source = dict(type=dataset_type, data_root=data_root)
train_dataloader = dict(batch_size=8, dataset=dict(**source, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**source, pipeline=test_pipeline))
test_dataloader = val_dataloader

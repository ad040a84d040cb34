# Generated shapes in ADE20K's layout: python tools/make_toy_dataset.py ade20k --out data/toy
_base_ = 'mmseg::_base_/datasets/ade20k.py'
dataset_type = 'mmfreq.ToyShapesDataset'
data_root = 'data/toy'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
source = dict(type=dataset_type, data_root=data_root)
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(**source, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(**source, pipeline=test_pipeline))
test_dataloader = val_dataloader

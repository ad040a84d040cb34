# Generated shapes in COCO's layout: python tools/make_toy_dataset.py coco --out data/toy_coco
_base_ = 'mmdet::_base_/datasets/coco_instance.py'
dataset_type = 'mmfreq.ToyInstancesDataset'
data_root = 'data/toy_coco/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmdet.Resize', scale_factor=1.0),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
source = dict(type=dataset_type, data_root=data_root)
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(**source, pipeline=train_pipeline, filter_cfg=dict(min_size=8)))
val_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(**source, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

# Fruits and nuts: 10 + 4 photographs of 600x800 with instance masks, COCO JSON, all images in one folder; read at 240x320.
# An epoch contains every photograph ten times; otherwise validation would take longer than training.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'
data_root = 'data/fruits_nuts/'
scale = (320, 240)  # width first, in mmdet's RandomCrop too
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
flips = dict(prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])
train_pipeline = [
    *load,
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.4), keep_ratio=True),
    dict(type='RandomCrop', crop_size=scale, recompute_bbox=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(8, 8)),  # recomputed boxes may be empty, which makes losses NaN
    dict(type='RandomFlip', **flips),
    dict(type='Brightness', min_mag=0.6, max_mag=1.4),  # no shifted hues: colors distinguish figs from dates
    dict(type='Color', min_mag=0.6, max_mag=1.4),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
metainfo = dict(classes=('date', 'fig', 'hazelnut'), palette=[(200, 30, 60), (110, 190, 40), (240, 160, 60)])
source = dict(data_root=data_root, metainfo=metainfo, data_prefix=dict(img='images/'))
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=10,
        dataset=dict(type='CocoDataset', **source, ann_file='train.json', pipeline=train_pipeline),
    ),
)
val_dataloader = dict(num_workers=1, dataset=dict(**source, ann_file='val.json', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator

"""Detection and classification: stock configs of mmdet and mmpretrain, trained and tested on toy data."""

import json
import pickle

import cv2
import numpy as np
import pytest
import torch

from mmfreq.datasets import TOY_COCO_METAINFO
from mmfreq.datasets.toy import write_toy_coco
from mmfreq.engine.launch import evaluate, train

DETECTION = """
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
metainfo = {metainfo!r}
small = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 96), keep_ratio=True),
         dict(type='LoadAnnotations', with_bbox=True)]
pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
data = dict(data_root={root!r}, metainfo=metainfo, pipeline=small + [pack])
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(**data, ann_file='annotations/instances_train2017.json'))
val_dataloader = dict(num_workers=0, dataset=dict(**data, ann_file='annotations/instances_val2017.json'))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={root!r} + '/annotations/instances_val2017.json')
test_evaluator = val_evaluator
model = dict(backbone=dict(init_cfg=None), bbox_head=dict(num_classes={classes}), test_cfg=dict(score_thr=0.0, max_per_img=5))
train_cfg = dict(max_epochs=1)
"""
CLASSIFICATION = """
_base_ = ['mmpretrain::_base_/default_runtime.py', 'mmpretrain::_base_/schedules/imagenet_bs256.py']
model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18, base_channels=4, stem_channels=4),
             neck=dict(type='GlobalAveragePooling'),
             head=dict(type='LinearClsHead', num_classes=2, in_channels=32, loss=dict(type='CrossEntropyLoss'), topk=(1,)))
data_preprocessor = dict(num_classes=2, mean=[128.0] * 3, std=[64.0] * 3)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(
    type='CustomDataset', data_root={root!r}, data_prefix='train', pipeline=pipeline))
val_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
    type='CustomDataset', data_root={root!r}, data_prefix='train', pipeline=pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
"""


def written(path):
    return pickle.loads(path.read_bytes())


@pytest.mark.slow
def test_stock_detector(tmp_path):
    root = tmp_path / 'coco'
    write_toy_coco(root, train=2, val=2, size=(96, 96))
    config = tmp_path / 'retina.py'
    classes = len(TOY_COCO_METAINFO['classes'])
    config.write_text(DETECTION.format(root=f'{root}/', metainfo=dict(TOY_COCO_METAINFO), classes=classes))
    runner = train(config, work_dir=tmp_path / 'work')
    assert runner.iter == 1
    out, show = tmp_path / 'out', tmp_path / 'show'
    metrics = evaluate(config, tmp_path / 'work' / 'epoch_1.pth', work_dir=tmp_path / 'test', out=out, show_dir=show)
    assert 'coco/bbox_mAP' in metrics
    assert len(written(out / 'predictions.pkl')) == 2
    assert {box['image_id'] for box in json.loads((out / 'results.bbox.json').read_text())} == {1, 2}
    assert len(list(show.glob('*.jpg'))) == 2


@pytest.mark.slow
def test_stock_classifier(tmp_path):
    for name in ('dark', 'light'):
        (tmp_path / 'data' / 'train' / name).mkdir(parents=True)
        for index in range(2):
            image = np.full((32, 32, 3), 50 if name == 'dark' else 200, np.uint8)
            cv2.imwrite(str(tmp_path / 'data' / 'train' / name / f'{name}{index}.png'), image)
    config = tmp_path / 'resnet.py'
    config.write_text(CLASSIFICATION.format(root=str(tmp_path / 'data')))
    train(config, work_dir=tmp_path / 'work')
    out, show = tmp_path / 'out', tmp_path / 'show'
    metrics = evaluate(config, tmp_path / 'work' / 'epoch_1.pth', work_dir=tmp_path / 'test', out=out, show_dir=show)
    predictions = written(out / 'predictions.pkl')
    right = [float(torch.equal(sample['pred_label'], sample['gt_label'])) for sample in predictions]
    assert metrics['accuracy/top1'] == 100 * np.mean(right) and len(right) == 4
    assert len(list(show.glob('*.png'))) == 4

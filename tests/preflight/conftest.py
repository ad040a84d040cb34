"""Configs and data for the tests of the checks before a run."""

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmfreq.preflight import Report
from mmfreq.testing.toy_segmentation import toy_segmentation_config


@pytest.fixture
def report():
    return Report()


@pytest.fixture
def cfg(toy_root):
    """A segmentation config on generated data."""
    return Config(toy_segmentation_config(toy_root, work_dir=str(toy_root / 'work')))


def coco_table():
    """A COCO file of two classes. Three images of 40 x 30: two boxes in the first, one in the second, none in the third."""
    annotations = [
        {'id': 1, 'image_id': 10, 'category_id': 7, 'bbox': [1, 2, 10, 10], 'area': 100, 'iscrowd': 0},
        {'id': 2, 'image_id': 10, 'category_id': 3, 'bbox': [5, 5, 20, 20], 'area': 400, 'iscrowd': 0},
        {'id': 3, 'image_id': 11, 'category_id': 7, 'bbox': [0, 0, 40, 30], 'area': 1200, 'iscrowd': 0},
    ]
    for row in annotations:
        x, y, w, h = row['bbox']
        row['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        'images': [{'id': 10 + i, 'file_name': f'{i}.jpg', 'width': 40, 'height': 30} for i in range(3)],
        'annotations': annotations,
        'categories': [{'id': 7, 'name': 'date'}, {'id': 3, 'name': 'fig'}],
    }


@pytest.fixture
def write_coco(tmp_path):
    """`write_coco(change)`: writes `coco_table` with its images, after `change(table)`; returns its dataset config."""

    def write(change=lambda table: None, name='train.json', with_mask=False, **leaf):
        (tmp_path / 'images').mkdir(exist_ok=True)
        table = coco_table()
        for image in table['images']:
            path = tmp_path / 'images' / image['file_name']
            if not path.exists():
                cv2.imwrite(str(path), np.zeros((30, 40, 3), np.uint8))
        change(table)
        (tmp_path / name).write_text(json.dumps(table))
        pipeline = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': with_mask}]
        return {
            'type': 'CocoDataset',
            'data_root': str(tmp_path),
            'ann_file': name,
            'data_prefix': {'img': 'images'},
            'metainfo': {'classes': ('date', 'fig')},
            'filter_cfg': {'filter_empty_gt': True},
            'pipeline': pipeline,
        } | leaf

    return write


@pytest.fixture
def detection(write_coco):
    """`detection(train, val)`: a config with these datasets; by default both are valid."""

    def make(train=None, val=None):
        leaves = {'train': train or write_coco(), 'val': (val or write_coco(name='val.json')) | {'test_mode': True}}
        loaders = {f'{name}_dataloader': {'batch_size': 1, 'dataset': leaf} for name, leaf in leaves.items()}
        return Config({'default_scope': 'mmdet', 'model': {'type': 'X'}, **loaders})

    return make


@pytest.fixture
def scored(detection, write_coco, tmp_path):
    """`scored(change)`: a config of a model with masks whose validation file, after `change(table)`, is scored by `CocoMetric`."""

    def make(change=lambda table: None, **evaluator):
        cfg = detection(val=write_coco(change, name='val.json', with_mask=True))
        cfg.model = {'type': 'MaskRCNN', 'roi_head': {'mask_head': {'type': 'FCNMaskHead'}}}
        cfg.val_evaluator = {'type': 'CocoMetric', 'ann_file': str(tmp_path / 'val.json'), 'metric': ['bbox', 'segm'], **evaluator}
        return cfg

    return make

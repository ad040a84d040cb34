"""The dataset classes as configs name them."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.datasets import TOY_CLASSES, TOY_COCO_METAINFO, write_toy_ade20k, write_toy_coco

SEGNET = {
    'sky': (128, 128, 128),
    'building': (128, 0, 0),
    'pole': (192, 192, 128),
    'road': (128, 64, 128),
    'pavement': (60, 40, 222),
    'tree': (128, 128, 0),
    'sign-symbol': (192, 128, 128),
    'fence': (64, 64, 128),
    'car': (64, 0, 128),
    'pedestrian': (64, 64, 0),
    'bicyclist': (0, 128, 192),
}


def _build(type_name, root, split, **more):
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS

    init_default_scope('mmseg')
    prefix = {'img_path': f'images/{split}', 'seg_map_path': f'annotations/{split}'}
    pipeline = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations'}]
    return DATASETS.build({'type': type_name, 'data_root': str(root), 'data_prefix': prefix, 'pipeline': pipeline, **more})


@pytest.mark.parametrize('split, count', [('training', 3), ('validation', 2)])
def test_toy_shapes_is_found_by_prefix_and_reduces_the_zero_label(tmp_path, split, count):
    write_toy_ade20k(tmp_path / 'set', train=3, val=2, size=(48, 64), seed=1)
    dataset = _build('mmfreq.ToyShapesDataset', tmp_path / 'set', split)
    assert len(dataset) == count
    assert dataset.metainfo['classes'] == tuple(row.name for row in TOY_CLASSES)
    assert [tuple(color) for color in dataset.metainfo['palette']] == [row.palette for row in TOY_CLASSES]
    for sample in dataset:
        written = np.array(Image.open(sample['seg_map_path'])).astype(int)
        assert sample['img'].shape == (48, 64, 3)
        np.testing.assert_array_equal(sample['gt_seg_map'], np.where(written == 0, 255, written - 1))


def test_camvid_keeps_its_zero_label_and_the_colors_of_segnet(tmp_path):
    for folder in ('images/validation', 'annotations/validation'):
        (tmp_path / folder).mkdir(parents=True)
    labels = np.array([[0, 1, 10, 255]] * 4, np.uint8)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / 'images/validation/a.jpg')
    Image.fromarray(labels).save(tmp_path / 'annotations/validation/a.png')
    dataset = _build('mmfreq.CamVidDataset', tmp_path, 'validation')
    assert dict(zip(dataset.metainfo['classes'], map(tuple, dataset.metainfo['palette']))) == SEGNET
    assert list(dataset.metainfo['classes']) == list(SEGNET)
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], labels)


@pytest.mark.skipif(not importlib.util.find_spec('mmdet'), reason='needs mmdet')
def test_toy_coco_is_read_by_mmdet_with_masks(tmp_path):
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    root = tmp_path / 'set'
    write_toy_coco(root, train=2, val=1, size=(64, 96))
    init_default_scope('mmdet')
    pipeline = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}]
    dataset = DATASETS.build(
        {
            'type': 'CocoDataset',
            'data_root': str(root),
            'ann_file': 'annotations/instances_train2017.json',
            'data_prefix': {'img': 'train2017/'},
            'metainfo': TOY_COCO_METAINFO,
            'pipeline': pipeline,
        }
    )
    assert len(dataset) == 2 and dataset.metainfo['classes'] == tuple(row.name for row in TOY_CLASSES[1:])
    for sample in dataset:
        masks, boxes = sample['gt_masks'].masks, sample['gt_bboxes'].tensor.numpy()
        assert len(masks) == len(boxes) == len(sample['gt_bboxes_labels']) > 3
        for mask, box in zip(masks, boxes):
            ys, xs = np.nonzero(mask)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]

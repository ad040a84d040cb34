"""The data of the two fruits-and-nuts configs, on generated photographs in that layout."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from tests.configs.reading import read_config

pytest.importorskip('mmdet')
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(ROOT.glob('configs/det/*/*_fruits-nuts-*.py'))
NAMES = ['date', 'fig', 'hazelnut']
COUNTS = {'train': 3, 'val': 2}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """data/fruits_nuts under an empty folder: every photograph 300x400 with six ellipses, two of them across a border."""
    folder = tmp_path_factory.mktemp('empty')
    root = folder / 'data/fruits_nuts'
    (root / 'images').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        categories = [{'id': i + 1, 'name': name, 'supercategory': name} for i, name in enumerate(NAMES)]
        table = {'images': [], 'annotations': [], 'categories': categories}
        for number in range(count):
            name = f'{split}{number}.png'
            image = np.full((300, 400, 3), 200, np.uint8)
            for index in range(6):
                x, y = 20 + 72 * index, (5, 150, 295)[index % 3]
                outline = cv2.ellipse2Poly((x, y), (30, 20), int(rng.integers(180)), 0, 360, 15).clip(0, (399, 299))
                cv2.fillPoly(image, [outline], (40 * index, 90, 30))
                box = np.concatenate([outline.min(0), np.ptp(outline, 0)]).tolist()
                row = {'id': len(table['annotations']) + 1, 'image_id': number, 'category_id': index % 3 + 1, 'iscrowd': 0}
                row |= {'segmentation': [outline.ravel().tolist()], 'bbox': box, 'area': box[2] * box[3]}
                table['annotations'].append(row)
            cv2.imwrite(str(root / 'images' / name), image)
            table['images'].append({'id': number, 'file_name': name, 'height': 300, 'width': 400})
        (root / f'{split}.json').write_text(json.dumps(table))
    return folder


@pytest.fixture(params=CONFIGS, ids=lambda path: path.parent.name)
def config(request, folder, monkeypatch):
    from mmengine.registry import init_default_scope

    monkeypatch.chdir(folder)
    init_default_scope('mmdet')
    return read_config(request.param)


def test_one_config_per_detector():
    assert [path.parent.name for path in CONFIGS] == ['dfformer', 'hornet']


@pytest.mark.slow
def test_cropped_training_samples_are_valid(config):
    from mmdet.registry import DATASETS

    dataset = DATASETS.build(config.train_dataloader.dataset)
    assert dataset.metainfo['classes'] == tuple(NAMES)
    assert len(dataset) == 10 * COUNTS['train'] and len(config.train_dataloader.dataset.dataset.metainfo.palette) == 3
    sides, seen = [], 0
    for index in range(len(dataset)):  # iterating over a RepeatDataset does not end
        sample = dataset[index]
        height, width = sample['inputs'].shape[1:]
        assert height <= 240 and width <= 320
        truth = sample['data_samples'].gt_instances
        boxes = truth.bboxes.tensor.numpy()
        sides.append((boxes[:, 2:] - boxes[:, :2]).min())  # a box without an extent makes the losses NaN
        assert truth.masks.masks.shape == (len(boxes), height, width) and truth.masks.areas.min() > 0
        assert (boxes >= 0).all() and (boxes <= (width, height) * 2).all()
        seen += len(np.unique(truth.labels)) == 3
    assert min(sides) > 8 and seen > 0


def test_photographs_are_tested_uncropped_with_all_classes(config):
    from mmdet.registry import DATASETS, METRICS

    dataset = DATASETS.build(config.test_dataloader.dataset)
    assert len(dataset) == COUNTS['val']
    for sample in dataset:
        assert sample['inputs'].shape == (3, 240, 320) and sample['data_samples'].ori_shape == (300, 400)
        assert sample['data_samples'].gt_instances.labels.tolist() == [0, 1, 2] * 2
    metric = METRICS.build(config.test_evaluator)
    masks = 'mask_head' in config.model.get('roi_head', {})
    assert metric.metrics == (['bbox', 'segm'] if masks else ['bbox'])
    assert metric._coco_api.get_cat_ids(cat_names=NAMES) == [1, 2, 3]

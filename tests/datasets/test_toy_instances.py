"""The toy dataset in COCO's layout, as mmdet reads it."""

import json

import numpy as np
import pytest

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.datasets import TOY_CLASSES, write_toy_coco
from mmfreq.datasets.toy import draw_scene

pytest.importorskip('mmdet')
SIZE, SEED, COUNTS = (64, 96), 5, {'train': 3, 'val': 2}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('toy') / 'set'
    write_toy_coco(root, **COUNTS, size=SIZE, seed=SEED)
    return root


def build(root, split='train', **more):
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    files = {'ann_file': f'annotations/instances_{split}2017.json', 'data_prefix': {'img': f'{split}2017/'}}
    load = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}]
    return DATASETS.build({'type': 'mmfreq.ToyInstancesDataset', 'data_root': str(root), **files, 'pipeline': load, **more})


def scenes(split):
    """The scenes of the generator, without files."""
    return [draw_scene(np.random.default_rng([SEED, list(COUNTS).index(split), index]), SIZE) for index in range(COUNTS[split])]


def test_classes_and_colors_are_those_of_the_table_without_the_ground(root):
    metainfo = build(root).metainfo
    assert metainfo['classes'] == tuple(row.name for row in TOY_CLASSES[1:])
    assert metainfo['palette'] == [row.palette for row in TOY_CLASSES[1:]]
    assert 'ground' not in metainfo['classes']


@pytest.mark.parametrize('split', COUNTS)
def test_samples_are_the_scenes_that_were_drawn(root, split):
    dataset = build(root, split)
    assert len(dataset) == COUNTS[split]
    for sample, scene in zip(dataset, scenes(split)):
        assert abs(sample['img'][..., ::-1].astype(int) - scene.image).mean() < 10  # JPEG
        assert len(scene.instances) > 3
        assert sample['gt_bboxes_labels'].tolist() == [row - 1 for row, _ in scene.instances]
        np.testing.assert_array_equal(sample['gt_masks'].masks, [mask for _, mask in scene.instances])
        assert not sample['gt_ignore_flags'].any()


@pytest.mark.slow
@pytest.mark.parametrize(('scale', 'keep_ratio', 'size'), [((192, 128), True, (128, 192)), ((144, 80), False, (80, 144))])
def test_boxes_masks_and_image_are_resized_together(root, scale, keep_ratio, size):
    resize = {'type': 'Resize', 'scale': scale, 'keep_ratio': keep_ratio}
    plain = build(root)
    resized = build(root, pipeline=[*plain.pipeline.transforms, resize])
    factors = np.array([size[1] / SIZE[1], size[0] / SIZE[0]] * 2)
    for before, after in zip(plain, resized):
        assert after['img'].shape == (*size, 3) and after['img_shape'] == size and after['ori_shape'] == SIZE
        assert after['gt_masks'].masks.shape == (len(before['gt_masks']), *size)
        boxes = after['gt_bboxes'].tensor.numpy()
        np.testing.assert_allclose(boxes, before['gt_bboxes'].tensor.numpy() * factors, atol=1e-3)
        for mask, box in zip(after['gt_masks'].masks, boxes):
            ys, xs = np.nonzero(mask)
            np.testing.assert_allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], box, atol=1.01)  # a pixel: nearest


@pytest.mark.parametrize('wrong_labels', [False, True])
def test_ground_truth_scores_100_and_wrong_labels_almost_0(root, wrong_labels):
    import torch
    from mmdet.evaluation import CocoMetric

    dataset = build(root, 'val')
    metric = CocoMetric(str(root / 'annotations/instances_val2017.json'), metric=['bbox', 'segm'])
    metric.dataset_meta = dataset.metainfo
    for sample in dataset:
        labels = torch.as_tensor(sample['gt_bboxes_labels'])
        found = {
            'bboxes': sample['gt_bboxes'].tensor,
            'labels': (labels + 1) % len(dataset.metainfo['classes']) if wrong_labels else labels,
            'scores': torch.ones(len(labels)),
            'masks': torch.as_tensor(sample['gt_masks'].masks).bool(),
        }
        metric.process({}, [{'img_id': sample['img_id'], 'ori_shape': SIZE, 'pred_instances': found}])
    scores = metric.evaluate(size=len(dataset))
    for metric in ('bbox', 'segm'):
        assert scores[f'coco/{metric}_mAP'] < 0.1 if wrong_labels else scores[f'coco/{metric}_mAP'] == 1.0


def test_fewer_classes(root):
    dataset = build(root, metainfo={'classes': ('disk', 'ring')})  # in the file's order: mmdet numbers them by it
    rows = {1: 0, 4: 1}  # of TOY_CLASSES
    wanted = [[rows[row] for row, _ in scene.instances if row in rows] for scene in scenes('train')]
    assert [sample['gt_bboxes_labels'].tolist() for sample in dataset] == wanted and sum(map(len, wanted)) > 3


def test_images_without_objects_are_skipped_only_in_training(root, tmp_path):
    path = root / 'annotations/instances_train2017.json'
    table = json.loads(path.read_text())
    first = table['images'][0]['id']
    table['annotations'] = [row for row in table['annotations'] if row['image_id'] != first]
    (tmp_path / 'fewer.json').write_text(json.dumps(table))
    keep = {'ann_file': str(tmp_path / 'fewer.json'), 'filter_cfg': {'filter_empty_gt': True, 'min_size': 8}}
    assert len(build(root, **keep)) == COUNTS['train'] - 1
    assert len(build(root, **keep, test_mode=True)) == COUNTS['train']


def test_error_names_a_missing_annotation_file(root):
    with pytest.raises(FileNotFoundError, match='instances_none2017'):
        build(root, 'none')

"""Scores of each class: AP of detectors, IoU of segmentors."""

import json

import cv2
import numpy as np
import pytest

from mmfreq.engine.class_scores import evaluate_by_class
from mmfreq.errors import DataError, UserError
from tests.engine.box_detector import CLASSES, write_config, write_images


@pytest.fixture
def boxes(tmp_path):
    """Config and checkpoint of a `BoxDetector`, and images with boxes of two of the three classes."""
    write_images(tmp_path, [[(0, 2, 4, 10, 12)], [(1, 26, 6, 12, 10), (0, 2, 20, 12, 12)]])
    return write_config(tmp_path)


def by_class(score):
    return dict(zip(score.classes, score.values))


def test_ap_of_each_class(boxes, tmp_path):
    """Found, missed, and without an object: the last is NaN, whether it is detected or not."""
    metrics, (score,) = evaluate_by_class(*boxes, work_dir=tmp_path / 'w', cfg_options={'model.misses': 1})
    assert score.name == 'bbox AP' and score.classes == CLASSES
    np.testing.assert_equal(by_class(score), {'dark': 100.0, 'gray': 0.0, 'bright': np.nan})
    assert score.mean == pytest.approx(100 * metrics['coco/bbox_mAP']) == 50


def test_boxes_and_masks_have_their_own_scores(boxes, tmp_path):
    """mmdet gives both the same name; here the masks of one class are empty."""
    options = {'test_evaluator.metric': ['bbox', 'segm'], 'model.masks': True, 'model.empty': 1}
    metrics, scores = evaluate_by_class(*boxes, work_dir=tmp_path / 'w', cfg_options=options)
    found = {score.name: by_class(score) for score in scores}
    np.testing.assert_equal(found['bbox AP'], {'dark': 100.0, 'gray': 100.0, 'bright': np.nan})
    np.testing.assert_equal(found['segm AP'], {'dark': 100.0, 'gray': 0.0, 'bright': np.nan})
    assert [metrics[f'coco/{name}_mAP'] for name in ('bbox', 'segm')] == [1.0, 0.5]


def test_scores_of_several_evaluators_have_their_prefix(boxes, tmp_path):
    metric = {'type': 'CocoMetric', 'ann_file': str(tmp_path / 'val.json'), 'metric': 'bbox'}
    options = {'test_evaluator': [metric, {**metric, 'prefix': 'again'}]}
    _, scores = evaluate_by_class(*boxes, work_dir=tmp_path / 'w', cfg_options=options)
    assert [score.name for score in scores] == ['coco bbox AP', 'again bbox AP']


def test_a_detector_that_finds_nothing(boxes, tmp_path):
    options = {'work_dir': tmp_path / 'w', 'cfg_options': {'model.finds': False}}
    assert evaluate_by_class(*boxes, plot=True, **options) == ({}, [])


def test_a_file_without_objects_is_refused(boxes, tmp_path):
    table = json.loads((tmp_path / 'val.json').read_text())
    (tmp_path / 'val.json').write_text(json.dumps({**table, 'annotations': []}))
    with pytest.raises(DataError, match=r'val\.json: the file has no annotations'):
        evaluate_by_class(*boxes, work_dir=tmp_path / 'w', plot=True)


@pytest.mark.parametrize('out', [None, 'out'])
def test_the_chart_is_saved(boxes, tmp_path, out):
    evaluate_by_class(*boxes, plot=True, work_dir=tmp_path / 'w', out=out and tmp_path / out)
    image = cv2.imread(str(tmp_path / (out or 'w') / 'class_scores.png'))
    assert image.shape[1] == 900


def test_iou_of_each_class(toy_config, trained, tmp_path):
    metrics, (score,) = evaluate_by_class(toy_config, trained / 'iter_2.pth', work_dir=tmp_path / 'w')
    assert score.name == 'IoU' and score.classes[0] == 'ground' and score.values.shape == (6,)
    assert score.mean == pytest.approx(metrics['mIoU'], abs=0.01) and score.mean == pytest.approx(np.nanmean(score.values))


NO_CLASS_SCORES = {
    'a metric without AP': ({'_delete_': True, 'type': 'VOCMetric'}, r'CocoMetric in test_evaluator; the config has VOCMetric'),
    'proposals': ({'metric': 'proposal'}, r"has metric=\['proposal'\]"),
    'fast proposals': ({'metric': ['proposal', 'proposal_fast']}, r"has metric=\['proposal', 'proposal_fast'\]"),
    'no evaluation': ({'format_only': True, 'outfile_prefix': 'x'}, r'has format_only=True'),
    'one IoU threshold': ({'iou_thrs': 0.5}, r'has iou_thrs=0\.5'),
    'two IoU thresholds': ({'iou_thrs': [0.5, 0.75]}, r'has iou_thrs=\[0\.5, 0\.75\]'),
}


@pytest.mark.parametrize('case', NO_CLASS_SCORES)
def test_evaluators_without_scores_of_classes_are_refused(boxes, tmp_path, case):
    change, pattern = NO_CLASS_SCORES[case]
    with pytest.raises(UserError, match=pattern):
        evaluate_by_class(*boxes, work_dir=tmp_path / 'w', cfg_options={'test_evaluator': change})
    assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize('scope', ['mmseg', 'mmpretrain'])
def test_other_libraries_need_an_iou_metric(toy_config, trained, tmp_path, scope):
    options = {'default_scope': scope, 'test_evaluator': {'_delete_': True, 'type': 'Accuracy'}}
    with pytest.raises(UserError, match=r'needs an IoUMetric.*the config has Accuracy'):
        evaluate_by_class(toy_config, trained / 'iter_2.pth', work_dir=tmp_path / 'w', cfg_options=options)

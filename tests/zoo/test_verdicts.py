"""The limit of 'reproduced', the names of metrics, and scores that are none."""

import math

import pytest

from mmfreq.zoo.results import MULTI, SINGLE, NoScoreError, is_good, named_metrics, published_for, verdict, ways_of
from tests.zoo.rows_for_tests import row

BOTH = {'mIoU': 49.2, 'mIoU(ms+flip)': 49.3}


@pytest.mark.parametrize(
    ('measured', 'published', 'words'),
    [
        (49.2, 49.2, 'reproduced'),
        (49.4, 49.2, 'reproduced'),  # 0.19999999999999574 as floats
        (49.0, 49.2, 'reproduced'),  # 0.20000000000000284
        (0.3, 0.1, 'reproduced'),
        (48.3, 48.1, 'reproduced'),
        (49.41, 49.2, 'differs by +0.21'),
        (48.99, 49.2, 'differs by -0.21'),
        (49.5, 49.2, 'differs by +0.3'),
        (50.2, 49.2, 'differs by +1.0'),
        (9.0, 49.2, 'differs by -40.2'),
        (49.2, None, 'measured (nothing published)'),
    ],
)
def test_within_two_tenths_a_number_is_reproduced(measured, published, words):
    assert verdict(measured, published) == words
    assert is_good(words) == (not words.startswith('differs'))


def test_ways_of_testing():
    assert ways_of(row(metrics=BOTH)) == [SINGLE, MULTI]
    assert ways_of(row(metrics=BOTH), single_scale=True) == ways_of(row(metrics={'mIoU': 48.6})) == ways_of(row()) == [SINGLE]
    assert published_for(row(metrics=BOTH), SINGLE) == {'mIoU': 49.2}
    assert published_for(row(metrics=BOTH), MULTI) == {'mIoU(ms+flip)': 49.3}


@pytest.mark.parametrize(
    ('found', 'test', 'named'),
    [
        ({'aAcc': 82.0, 'mIoU': 49.204, 'mAcc': 60.0}, SINGLE, {'mIoU': 49.2}),
        ({'aAcc': 82.0, 'mIoU': 49.306}, MULTI, {'mIoU(ms+flip)': 49.31}),
        ({'coco/bbox_mAP': 0.524, 'coco/bbox_mAP_50': 0.7, 'coco/segm_mAP': 0.456}, SINGLE, {'box AP': 52.4, 'mask AP': 45.6}),
        ({'accuracy/top1': 83.01, 'accuracy/top5': 96.4}, SINGLE, {'Top 1 Accuracy': 83.01, 'Top 5 Accuracy': 96.4}),
        ({'coco/bbox_mAP': 0.0}, SINGLE, {'box AP': 0.0}),
    ],
)
def test_metrics_get_the_names_of_the_metafiles(found, test, named):
    assert named_metrics(found, row(), test) == named


@pytest.mark.parametrize(
    ('found', 'told'),
    [
        ({'mIoU': math.nan}, 'mIoU is nan'),
        ({'mIoU': math.inf}, 'mIoU is inf'),
        ({'coco/bbox_mAP': -1.0}, 'hold no object'),
        ({'aAcc': 3.0}, 'no known metric in what was measured: aAcc'),
        ({}, 'nothing'),
    ],
)
def test_a_score_that_is_none_is_refused(found, told):
    with pytest.raises(NoScoreError, match=told):
        named_metrics(found, row(), SINGLE)


def test_a_published_metric_must_be_measured():
    published = row(task='det', metrics={'box AP': 52.4, 'mask AP': 45.6})
    with pytest.raises(NoScoreError, match=r'no mask AP in .*coco/bbox_mAP; .*nothing was detected'):
        named_metrics({'coco/bbox_mAP': 0.5}, published, SINGLE)

"""Decoders, the filter and NMS give the boxes of mmdetection and mmcv, with shapes that do not depend on values."""

import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder, TBLRBBoxCoder
from mmengine.config import ConfigDict

import mmfreq  # noqa: F401
from mmfreq.errors import UserError
from mmfreq.export.detectors.boxes import MASKED, BoxFilter, above, best, decoder_of, filter_of, kept_boxes, large

SIZE = (60, 90)  # (H, W)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_boxes(count, low=0.0):
    corners = torch.rand(count, 2) * torch.tensor(SIZE).flip(0) * (1 - low) + low * 20
    return torch.cat((corners, corners + 5 + 20 * torch.rand(count, 2)), 1)


@pytest.mark.parametrize(
    'options',
    [
        dict(target_stds=(0.1, 0.1, 0.2, 0.2)),
        dict(target_means=(0.1, -0.2, 0.3, 0.4), clip_border=False),
        dict(add_ctr_clamp=True, ctr_clamp=4),
    ],
    ids=['stds', 'means without clipping', 'center clamp'],
)
def test_offsets_are_decoded_as_by_mmdet(options):
    anchors, offsets = random_boxes(200), 3 * torch.randn(200, 4)
    coder = DeltaXYWHBBoxCoder(**options)
    actual = decoder_of(coder)(anchors, offsets, torch.tensor(SIZE))
    torch.testing.assert_close(actual, coder.decode(anchors, offsets, max_shape=SIZE), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize('clip', [True, False])
def test_distances_are_decoded_as_by_mmdet(clip):
    points, distances = 60 * torch.rand(200, 2), 40 * torch.rand(200, 4)
    coder = DistancePointBBoxCoder(clip_border=clip)
    actual = decoder_of(coder)(points, distances, torch.tensor(SIZE))
    torch.testing.assert_close(actual, coder.decode(points, distances, max_shape=SIZE), rtol=0, atol=0)


def reference(boxes, scores, labels, chosen):
    """Of mmcv, after removing masked boxes."""
    rows = scores >= 0
    nms = dict(type='nms', iou_threshold=chosen.iou, class_agnostic=chosen.one_group, split_thr=chosen.split_from)
    dets, keep = batched_nms(boxes[rows], scores[rows], labels[rows], nms)
    return dets[: chosen.max_boxes, :4], dets[: chosen.max_boxes, 4], labels[rows][keep][: chosen.max_boxes]


@pytest.mark.parametrize('split_from', [10000, 10], ids=['together', 'by group'])
@pytest.mark.parametrize('one_group', [False, True])
@pytest.mark.parametrize('low', [0.0, -1.0], ids=['inside', 'negative coordinates'])
@pytest.mark.parametrize('max_boxes', [20, 400])
def test_remaining_boxes_equal_those_of_mmcv(max_boxes, low, one_group, split_from):
    boxes, labels = random_boxes(300, low), torch.randint(0, 3, (300,))
    scores = above(torch.rand(300), 0.3)
    chosen = BoxFilter(max_boxes, 0.4, one_group=one_group, split_from=split_from)
    expected = reference(boxes, scores, labels, chosen)
    *actual, count = kept_boxes(boxes, scores, labels, chosen)
    assert [len(values) for values in actual] == [max_boxes] * 3
    assert count == len(expected[0]) and 10 < count < 300
    for values, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(values[:count], want, rtol=0, atol=0)
    assert (actual[0][count:] == 0).all() and (actual[1][count:] == 0).all() and (actual[2][count:] == -1).all()


@pytest.mark.parametrize(('split_from', 'remain'), [(10000, 1), (2, 2)])
def test_negative_coordinates_overlap_the_label_before_unless_nms_is_by_label(split_from, remain):
    """Moved by the largest coordinate plus 1, the second box is (81, 81, 100, 100); mmcv drops it, too."""
    boxes, scores, labels = torch.tensor([[80.0, 80, 100, 100], [-20, -20, -1, -1]]), torch.tensor([0.9, 0.8]), torch.arange(2)
    chosen = BoxFilter(5, 0.5, split_from=split_from)
    count = kept_boxes(boxes, scores, labels, chosen)[3]
    assert count == len(reference(boxes, scores, labels, chosen)[1]) == remain


@pytest.mark.parametrize('iou', [0.0, 0.5, 1.0])
def test_no_box_remains_if_all_are_masked(iou):
    boxes, scores, labels, count = kept_boxes(
        random_boxes(30), torch.full((30,), MASKED), torch.zeros(30, dtype=torch.long), BoxFilter(7, iou)
    )
    assert count == 0 and boxes.shape == (7, 4) and not boxes.any() and not scores.any() and (labels == -1).all()


def test_boxes_of_score_zero_count():
    labels = torch.zeros(2, dtype=torch.long)
    _, _, labels, count = kept_boxes(torch.tensor([[0.0, 0, 5, 5], [20, 20, 30, 30]]), torch.zeros(2), labels, BoxFilter(5, 0.5))
    assert count == 2 and labels.tolist() == [0, 0, -1, -1, -1]


def test_thresholds_are_exclusive_as_in_mmdet():
    assert above(torch.tensor([0.2, 0.3, 0.25]), 0.25).tolist() == pytest.approx([MASKED, 0.3, MASKED])
    boxes = torch.tensor([[0.0, 0, 4, 9], [0, 0, 9, 4], [0, 0, 5, 5]])
    assert large(boxes, torch.ones(3), 4).tolist() == [MASKED, MASKED, 1]
    assert large(boxes, torch.ones(3), None).tolist() == [1, 1, 1]


def test_best_takes_all_if_there_are_fewer():
    scores = torch.tensor([0.1, 0.3, 0.2])
    assert best(scores, 2)[1].tolist() == [1, 2]
    assert best(scores, 5)[1].tolist() == best(scores, None)[1].tolist() == [1, 2, 0]


def test_filter_of_a_test_cfg():
    cfg = dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    found = filter_of(ConfigDict(cfg), 'RetinaHead')
    assert found == BoxFilter(100, 0.5, 0.05, 1000, 0)
    assert found.changed(max_boxes=7, score=0.3) == BoxFilter(7, 0.5, 0.3, 1000, 0) and found.changed() == found
    bare = filter_of(dict(nms=dict(iou_thr=0.5, class_agnostic=True), max_per_img=9), 'RPNHead')
    assert bare == BoxFilter(9, 0.5, None, None, None, True)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            dict(nms=dict(type='soft_nms', iou_threshold=0.5)),
            r"nms of type 'nms' in the test_cfg of Head, found 'soft_nms'\. Change",
        ),
        (dict(nms=None), "nms of type 'nms' in the test_cfg of Head, found None"),
        (
            dict(nms=dict(type='nms', iou_threshold=0.5, max_num=3)),
            r'Expected only type, iou_threshold, .*, found max_num\. Remove',
        ),
        (dict(nms=dict(type='nms')), 'Expected iou_threshold in nms of the test_cfg of Head, found none'),
        (dict(max_per_img=-1), 'positive max_per_img in the test_cfg of Head, found -1'),
    ],
)
def test_unsupported_configs_are_refused(change, message):
    cfg = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=9) | change
    with pytest.raises(UserError, match=message):
        filter_of(cfg, 'Head')


def test_number_of_boxes_must_be_positive():
    with pytest.raises(UserError, match='positive number of boxes, got 0'):
        BoxFilter(7, 0.5).changed(max_boxes=0)


@pytest.mark.parametrize('score', [-0.1, 1.5, float('nan')])
def test_score_threshold_must_be_a_probability(score):
    with pytest.raises(UserError, match='threshold from 0 to 1'):
        BoxFilter(7, 0.5).changed(score=score)


def test_unknown_coder_is_refused_by_name():
    with pytest.raises(UserError, match=r'box coder DeltaXYWHBBoxCoder or DistancePointBBoxCoder, found TBLRBBoxCoder\. Export'):
        decoder_of(TBLRBBoxCoder())

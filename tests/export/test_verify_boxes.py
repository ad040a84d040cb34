"""Boxes are compared one to one; only the choice between boxes of equal scores may differ."""

import numpy as np
import pytest

from mmfreq.export.verify_boxes import Boxes, compare

FIRST = Boxes(
    np.array([[0, 0, 10, 10], [20, 20, 60, 60], [22, 20, 62, 60], [5, 5, 50, 90]], np.float32),
    np.array([0.9, 0.8, 0.7, 0.6], np.float32),
    np.array([0, 1, 1, 2]),
)


def changed(rows=slice(None), **fields):
    boxes = FIRST._replace(**fields)
    return Boxes(*(values[rows] for values in boxes[:3]))


def verdicts(actual, expected=FIRST, max_boxes=9):
    found = compare('x', actual, expected, 100, max_boxes)
    assert [difference.output for difference in found] == ['boxes', 'scores', 'unpaired']
    return [difference.within for difference in found]


def test_equal_boxes_and_none_at_all():
    assert verdicts(FIRST) == verdicts(changed(slice(0)), changed(slice(0))) == [True] * 3


def test_order_of_equal_scores_does_not_matter():
    equal = changed(scores=np.full(4, 0.5, np.float32))
    assert verdicts(Boxes(*(values[::-1] for values in equal[:3])), equal) == [True] * 3


def test_choice_between_boxes_of_equal_scores_may_differ():
    boxes = FIRST.boxes.copy()
    boxes[3] += 30
    assert verdicts(changed(boxes=boxes)) == [True] * 3
    assert verdicts(changed(boxes=boxes, scores=FIRST.scores - np.float32([0, 0, 0, 1e-3]))) == [True, True, False]


def test_a_box_below_the_last_one_of_a_full_result_may_be_missing():
    assert verdicts(changed(slice(3)), max_boxes=3) == verdicts(FIRST, changed(slice(3)), max_boxes=3) == [True] * 3
    assert verdicts(changed([0, 1, 3]), max_boxes=3) == [True, True, False]


def test_what_an_equal_box_suppresses_may_differ_too():
    """Row 1 and a shifted one have equal scores, the shifted one suppresses row 2 as well."""
    boxes = FIRST.boxes.copy()
    boxes[1] += 8
    assert verdicts(changed([0, 1, 3], boxes=boxes)) == [True] * 3
    boxes[1] += 50  # overlaps neither
    assert verdicts(changed([0, 1, 3], boxes=boxes)) == [True, True, False]


@pytest.mark.parametrize(
    ('actual', 'expected'),
    [
        (changed(boxes=FIRST.boxes + np.float32(0.1)), [False, True, True]),
        (changed(scores=FIRST.scores + np.float32(1e-3)), [True, False, True]),
        (changed(labels=np.array([0, 1, 1, 3]), scores=FIRST.scores - np.float32([0, 0, 0, 2e-4])), [True, True, False]),
        (changed(slice(3)), [True, True, False]),
        (changed(slice(0)), [True, True, False]),
    ],
    ids=['boxes', 'scores', 'label', 'one fewer', 'none'],
)
def test_differences_are_found(actual, expected):
    assert verdicts(actual) == expected
    assert verdicts(FIRST, actual) == expected


def test_largest_difference_is_relative_to_the_side():
    boxes, scores, _ = compare('x', changed(boxes=FIRST.boxes + np.float32(1)), FIRST, 100, 9)
    assert boxes.largest == pytest.approx(0.01) and scores.largest == 0


def test_masks_are_compared_pair_by_pair():
    masks = np.linspace(0, 1, 4 * 9, dtype=np.float32).reshape(4, 3, 3)
    expected, order = FIRST._replace(masks=masks), [1, 0, 2, 3]
    other = masks.copy()
    other[1, 2, 2] += 1e-3
    for values, within in ((masks, True), (other, False)):
        actual = Boxes(*(value[order] for value in FIRST[:3]), values[order])
        *boxes, difference = compare('x', actual, expected, 100, 9)
        assert all(entry.within for entry in boxes)
        assert (difference.output, difference.within) == ('masks', within)
    assert compare('x', changed(slice(0))._replace(masks=masks[:0]), changed(slice(0))._replace(masks=masks[:0]), 100, 9)[-1].within

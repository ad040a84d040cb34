"""The chart of class scores."""

from itertools import pairwise

import numpy as np
import pytest

from mmfreq.analysis.class_scores import ClassScores, plot_class_scores


def scores(count, name='IoU', missing=()):
    values = np.linspace(10, 90, count) if count > 1 else np.array([50.0])
    values[list(missing)] = np.nan
    return ClassScores(name, tuple(f'class {index}' for index in range(count)), values, float(np.nanmean(values)))


def labels(figure):
    return [label.get_text() for axis in figure.axes for label in axis.get_yticklabels()]


@pytest.mark.parametrize(('count', 'columns'), [(1, 1), (3, 1), (19, 1), (50, 1), (51, 2), (150, 3), (1203, 3)])
def test_every_class_is_drawn_once_and_the_best_is_first(count, columns):
    figure = plot_class_scores([scores(count)], 'Scores')
    assert len(figure.axes) == columns
    assert labels(figure) == [f'class {index}' for index in reversed(range(count))]
    assert sum(len(axis.patches) for axis in figure.axes) == count


@pytest.mark.parametrize('count', [3, 19, 150])
@pytest.mark.parametrize('number', [1, 2])
def test_names_do_not_overlap(count, number):
    figure = plot_class_scores([scores(count, f'{index} AP') for index in range(number)], 'Scores')
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [label.get_window_extent() for label in axis.get_yticklabels()]
        assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(boxes))
        assert min(box.x0 for box in boxes) >= 0


def test_a_class_without_a_score_is_last_and_has_a_dash():
    figure = plot_class_scores([scores(4, missing=[2])], 'Scores')
    (axis,) = figure.axes
    assert labels(figure)[-1] == 'class 2'
    assert [text.get_text() for text in axis.texts] == ['90.0', '36.7', '10.0', '-']
    assert axis.patches[-1].get_width() == 0


def test_two_scores_are_sorted_by_the_first():
    one = scores(3)
    other = ClassScores('segm AP', one.classes, one.values[::-1], np.nan)
    figure = plot_class_scores([one, other], 'Scores')
    (axis,) = figure.axes
    assert [patch.get_width() for patch in axis.patches] == [90, 50, 10, 10, 50, 90]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['mean IoU 50.0', 'IoU', 'segm AP']


@pytest.mark.parametrize(('names', 'label'), [(['IoU'], 'IoU, %'), (['bbox AP', 'segm AP'], 'AP, %'), (['coco bbox AP'], 'AP, %')])
def test_the_axis_names_the_score_and_its_unit(names, label):
    for axis in plot_class_scores([scores(60, name) for name in names], 'Scores').axes:
        assert axis.get_xlabel() == label


def test_long_names_are_cut():
    score = ClassScores('IoU', ('x' * 60,), np.array([1.0]), 1.0)
    assert labels(plot_class_scores([score], 'Scores')) == ['x' * 23 + '…']

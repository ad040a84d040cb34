"""Detections as pictures: masks, boxes and which of two lies on top."""

import numpy as np
import pytest

from mmfreq.analysis.predictions import draw_detections

CLASSES, PALETTE = ['cat', 'dog'], [(250, 0, 0), (0, 0, 250)]
IMAGE = np.full((120, 160, 3), 100, np.uint8)


def test_boxes_are_outlined_in_their_colour_and_the_rest_stays():
    drawn = draw_detections(IMAGE, [[40, 50, 100, 110]], [1], [0.9], CLASSES, PALETTE)
    assert (drawn[80, 40] == PALETTE[1]).all() and (drawn[110, 70] == PALETTE[1]).all()
    assert (drawn[60:100, 50:90] == 100).all() and (drawn[:, 120:] == 100).all()
    assert (drawn[:50] != 100).any()  # the tag
    assert (IMAGE == 100).all()


def test_masks_are_mixed_in_and_the_best_is_on_top():
    masks = np.zeros((2, 120, 160), bool)
    masks[0, 60:100, 60:100], masks[1, 60:80, 60:80] = True, True
    boxes = [[0, 0, 1, 1], [0, 0, 1, 1]]
    drawn = draw_detections(IMAGE, boxes, [0, 1], [0.9, 0.2], CLASSES, PALETTE, masks, opacity=1)
    assert (drawn[70, 70] == PALETTE[0]).all() and (drawn[90, 90] == PALETTE[0]).all()
    drawn = draw_detections(IMAGE, boxes, [0, 1], [0.2, 0.9], CLASSES, PALETTE, masks, opacity=0.5)
    assert (drawn[90, 90] == [175, 50, 50]).all()
    assert (drawn[70, 70] == [88, 25, 150]).all()


def test_nothing_found_is_the_picture_itself():
    drawn = draw_detections(IMAGE, np.zeros((0, 4)), [], [], CLASSES, PALETTE, np.zeros((0, 120, 160), bool))
    np.testing.assert_array_equal(drawn, IMAGE)


def test_counts_must_agree():
    with pytest.raises(ValueError, match=r'\[1, 2\]'):
        draw_detections(IMAGE, [[0, 0, 9, 9]], [0, 1], [0.5], CLASSES, PALETTE)

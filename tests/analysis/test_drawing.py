"""The pixels of overlays, panels and detections."""

import numpy as np
import pytest

from mmfreq.analysis.drawing import GAP, MIN_COLUMN, draw_detections, hatch, legend_of, overlay, panel

CLASSES, PALETTE = ['cat', 'dog'], [(200, 0, 0), (0, 100, 0)]
SMALL = np.full((6, 8, 3), 100, np.uint8)
LARGE = np.full((120, 160, 3), 100, np.uint8)


def test_overlay_blends_image_and_color_by_opacity():
    labels = np.zeros((6, 8), int)
    labels[:, 4:] = 1
    blended = overlay(SMALL, labels, PALETTE, opacity=0.25)
    assert blended.dtype == np.uint8
    assert (blended[:, :4] == [125, 75, 75]).all() and (blended[:, 4:] == [75, 100, 75]).all()
    np.testing.assert_array_equal(overlay(SMALL, labels, PALETTE, opacity=0), SMALL)
    np.testing.assert_array_equal(overlay(SMALL, labels, PALETTE, opacity=1), np.array(PALETTE)[labels])


def test_only_ignored_pixels_are_hatched():
    labels = np.zeros((6, 8), np.uint8)
    labels[2:5] = 255
    blended = overlay(SMALL, labels, PALETTE, opacity=1)
    np.testing.assert_array_equal(blended[2:5], hatch((6, 8))[2:5])
    assert {0, 255} == set(np.unique(blended[2:5])) and (blended[:2] == PALETTE[0]).all() and (blended[5:] == PALETTE[0]).all()


def test_overlay_does_not_change_its_inputs():
    image, labels = SMALL.copy(), np.full((6, 8), 255, np.uint8)
    overlay(image, labels, PALETTE)
    assert (image == SMALL).all() and (labels == 255).all()


def test_overlay_rejects_invalid_arguments():
    with pytest.raises(ValueError, match=r'labels are 2\.\.2, but the palette has 2 colors'):
        overlay(SMALL, np.full((6, 8), 2), PALETTE)
    with pytest.raises(ValueError, match=r'\(6, 8, 3\).*\(8, 6\)'):
        overlay(SMALL, np.zeros((8, 6), int), PALETTE)
    with pytest.raises(ValueError, match='float32'):
        overlay(SMALL.astype(np.float32), np.zeros((6, 8), int), PALETTE)
    with pytest.raises(ValueError, match='opacity is 50'):
        overlay(SMALL, np.zeros((6, 8), int), PALETTE, opacity=50)


def test_legend_has_the_classes_that_occur_in_any_map():
    maps = [np.array([[2, 2]]), np.array([[0, 255]])]
    palette = [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    assert legend_of(maps, 'abc', palette) == [('a', (1, 1, 1)), ('c', (3, 3, 3)), ('not labeled', None)]
    assert legend_of(maps[:1], 'abc', palette) == [('c', (3, 3, 3))]


@pytest.mark.parametrize('size', [(40, 60), (300, 400)])
def test_panel_keeps_every_pixel_of_its_columns(size):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for _ in range(3)]
    sheet = panel([(f'title {i}', image) for i, image in enumerate(images)], [('sky', (1, 2, 3)), ('ignored', None)])
    factor = max(1, -(-MIN_COLUMN // size[1]))
    height, width = size[0] * factor, size[1] * factor
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 3 * width + 4 * GAP
    assert sheet.shape[0] < height + 120  # no wide margins
    top = next(y for y in range(sheet.shape[0]) if (sheet[y : y + height : factor, GAP : GAP + width : factor] == images[0]).all())
    for number, image in enumerate(images):
        left = GAP + number * (width + GAP)
        np.testing.assert_array_equal(sheet[top : top + height, left : left + width], image.repeat(factor, 0).repeat(factor, 1))
    assert (sheet[:top] < 128).any()  # titles
    assert (sheet[top + height :] == [1, 2, 3]).all(-1).sum() > 50  # the swatch


def test_long_legend_is_wrapped_and_long_title_is_shortened():
    image = np.zeros((100, 300, 3), np.uint8)
    one = panel([('x' * 500, image)], [('sky', PALETTE[0])])
    many = panel([('x', image)], [(f'class number {i}', (i, 200, 9)) for i in range(30)])
    assert one.shape[1] == many.shape[1] and many.shape[0] > one.shape[0] + 100
    assert (one[:, -GAP:] == 255).all()  # nothing runs into the margin
    assert all((many == [i, 200, 9]).all(-1).any() for i in range(30))


def test_panel_rejects_columns_of_several_sizes():
    with pytest.raises(ValueError, match='one size'):
        panel([('a', SMALL), ('b', SMALL[:4])])
    with pytest.raises(ValueError, match='at least one'):
        panel([])


def test_boxes_are_outlined_in_their_color_and_other_pixels_unchanged():
    drawn = draw_detections(LARGE, [[40, 50, 100, 110]], [1], [0.9], CLASSES, PALETTE)
    assert (drawn[80, 40] == PALETTE[1]).all() and (drawn[110, 70] == PALETTE[1]).all()
    assert (drawn[60:100, 50:90] == 100).all() and (drawn[:, 120:] == 100).all()
    assert (drawn[:50] != 100).any()  # the tag
    assert (LARGE == 100).all()


def test_masks_are_blended_with_the_best_detection_on_top():
    masks = np.zeros((2, 120, 160), bool)
    masks[0, 60:100, 60:100], masks[1, 60:80, 60:80] = True, True
    boxes = [[0, 0, 1, 1], [0, 0, 1, 1]]
    drawn = draw_detections(LARGE, boxes, [0, 1], [0.9, 0.2], CLASSES, PALETTE, masks, opacity=1)
    assert (drawn[70, 70] == PALETTE[0]).all() and (drawn[90, 90] == PALETTE[0]).all()
    drawn = draw_detections(LARGE, boxes, [0, 1], [0.2, 0.9], CLASSES, PALETTE, masks, opacity=0.5)
    assert (drawn[90, 90] == [150, 50, 50]).all()
    assert (drawn[70, 70] == [75, 75, 25]).all()


def test_without_detections_the_image_is_unchanged():
    drawn = draw_detections(LARGE, np.zeros((0, 4)), [], [], CLASSES, PALETTE, np.zeros((0, 120, 160), bool))
    np.testing.assert_array_equal(drawn, LARGE)


def test_lengths_of_detections_must_agree():
    with pytest.raises(ValueError, match=r'\[1, 2\]'):
        draw_detections(LARGE, [[0, 0, 9, 9]], [0, 1], [0.5], CLASSES, PALETTE)


def test_overlays_of_tall_images_are_those_of_their_parts():
    rng = np.random.default_rng(0)
    image, labels = rng.integers(0, 256, (600, 7, 3), dtype=np.uint8), rng.choice([0, 1, 255], (600, 7))
    blended = overlay(image, labels, PALETTE, 0.3)
    colors = np.where((labels == 255)[..., None], hatch((600, 7)), np.array(PALETTE)[labels % 255])
    np.testing.assert_allclose(blended, image * 0.7 + colors * 0.3, atol=0.51)

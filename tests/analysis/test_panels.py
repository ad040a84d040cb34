"""Pictures are data: their pixels are checked where they can be told in advance."""

import numpy as np
import pytest

from mmfreq.analysis.predictions import GAP, MIN_COLUMN, hatch, legend_of, overlay, panel

PALETTE = [(200, 0, 0), (0, 100, 0)]
IMAGE = np.full((6, 8, 3), 100, np.uint8)


def test_overlay_mixes_image_and_colour_by_opacity():
    labels = np.zeros((6, 8), int)
    labels[:, 4:] = 1
    mixed = overlay(IMAGE, labels, PALETTE, opacity=0.25)
    assert mixed.dtype == np.uint8
    assert (mixed[:, :4] == [125, 75, 75]).all() and (mixed[:, 4:] == [75, 100, 75]).all()
    np.testing.assert_array_equal(overlay(IMAGE, labels, PALETTE, opacity=0), IMAGE)
    np.testing.assert_array_equal(overlay(IMAGE, labels, PALETTE, opacity=1), np.array(PALETTE)[labels])


def test_ignored_pixels_are_hatched_and_only_they():
    labels = np.zeros((6, 8), np.uint8)
    labels[2:5] = 255
    mixed = overlay(IMAGE, labels, PALETTE, opacity=1)
    np.testing.assert_array_equal(mixed[2:5], hatch((6, 8))[2:5])
    assert {0, 255} == set(np.unique(mixed[2:5])) and (mixed[:2] == PALETTE[0]).all() and (mixed[5:] == PALETTE[0]).all()


def test_overlay_leaves_its_inputs_alone():
    image, labels = IMAGE.copy(), np.full((6, 8), 255, np.uint8)
    overlay(image, labels, PALETTE)
    assert (image == IMAGE).all() and (labels == 255).all()


def test_overlay_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r'labels 2\.\.2 but 2 colours'):
        overlay(IMAGE, np.full((6, 8), 2), PALETTE)
    with pytest.raises(ValueError, match=r'\(6, 8, 3\).*\(8, 6\)'):
        overlay(IMAGE, np.zeros((8, 6), int), PALETTE)
    with pytest.raises(ValueError, match='float32'):
        overlay(IMAGE.astype(np.float32), np.zeros((6, 8), int), PALETTE)
    with pytest.raises(ValueError, match='opacity is 50'):
        overlay(IMAGE, np.zeros((6, 8), int), PALETTE, opacity=50)


def test_legend_holds_the_classes_that_occur_in_any_map():
    maps = [np.array([[2, 2]]), np.array([[0, 255]])]
    palette = [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    assert legend_of(maps, 'abc', palette) == [('a', (1, 1, 1)), ('c', (3, 3, 3)), ('not labelled', None)]
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


def test_a_long_legend_breaks_into_rows_and_a_long_title_is_cut():
    image = np.zeros((100, 300, 3), np.uint8)
    one = panel([('x' * 500, image)], [('sky', PALETTE[0])])
    many = panel([('x', image)], [(f'class number {i}', (i, 200, 9)) for i in range(30)])
    assert one.shape[1] == many.shape[1] and many.shape[0] > one.shape[0] + 100
    assert (one[:, -GAP:] == 255).all()  # nothing runs into the margin
    assert all((many == [i, 200, 9]).all(-1).any() for i in range(30))


def test_panel_refuses_columns_of_several_sizes():
    with pytest.raises(ValueError, match='one size'):
        panel([('a', IMAGE), ('b', IMAGE[:4])])
    with pytest.raises(ValueError, match='at least one'):
        panel([])

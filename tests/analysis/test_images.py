"""Pictures reach a model in its size, its order of colours and its scale."""

import cv2
import numpy as np
import pytest

from mmfreq.analysis.images import drawn_scenes, load_images, normalised, resize_and_crop


def test_normalised_in_the_models_order():
    pictures = np.zeros((1, 4, 5, 3), np.uint8)
    pictures[..., 0], pictures[..., 2] = 200, 10  # red and blue
    rgb, bgr = (normalised(pictures, (10, 20, 30), (2, 4, 5), order) for order in ('RGB', 'BGR'))
    assert rgb.shape == (1, 3, 4, 5) and rgb[0, :, 0, 0].tolist() == [95, -5, -4]
    assert bgr[0, :, 0, 0].tolist() == [0, -5, 34]


@pytest.mark.parametrize('shape', [(40, 80), (80, 40), (33, 47), (300, 200)])
def test_covering_keeps_the_middle_and_the_proportions(shape):
    picture = np.zeros((*shape, 3), np.uint8)
    picture[shape[0] // 2 - 4 : shape[0] // 2 + 4, shape[1] // 2 - 4 : shape[1] // 2 + 4] = 255
    found = resize_and_crop(picture, (64, 48))
    assert found.shape == (64, 48, 3)
    rows, columns = np.nonzero(found[..., 0] > 127)
    assert abs(rows.mean() - 31.5) < 1.5 and abs(columns.mean() - 23.5) < 1.5
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1


def test_files_are_read_as_rgb_and_others_refused(tmp_path):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / 'a.png'), red)
    cv2.imwrite(str(tmp_path / 'b.png'), red)
    found = load_images([tmp_path], (32, 40), 5)
    assert found.shape == (2, 32, 40, 3) and (found[..., 0] == 255).all() and not found[..., 1:].any()
    assert len(load_images([tmp_path], (32, 40), 1)) == 1
    (tmp_path / 'c.png').write_text('no picture')
    with pytest.raises(ValueError, match=r'c\.png cannot be read'):
        load_images([tmp_path], (32, 40), 5)
    with pytest.raises(ValueError, match='at least 32'):
        load_images([tmp_path], (32, 31), 1)


def test_drawn_scenes_repeat_and_differ_from_one_another():
    first, again = drawn_scenes((48, 64), 2), drawn_scenes((48, 64), 2)
    assert first.shape == (2, 48, 64, 3) and (first == again).all() and (first[0] != first[1]).any()
    with pytest.raises(ValueError, match='at least 32'):
        drawn_scenes((16, 64), 1)

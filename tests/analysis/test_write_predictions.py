"""What becomes of a picture that the model does not take."""

import cv2
import numpy as np
import pytest

from mmfreq.analysis.write_predictions import PredictionError, write_predictions


class Picky:
    """A segmentor that refuses pictures below 32x32 and breaks on others that are wider than high."""

    task, classes, palette = 'segmentation', ['all'], [(1, 2, 3)]

    def __call__(self, image):
        if min(image.shape[:2]) < 32:
            raise ValueError('needs images of at least 32x32')
        if image.shape[1] > image.shape[0]:
            raise RuntimeError('size mismatch')
        return np.zeros(image.shape[:2], np.uint8)


@pytest.fixture
def picture(tmp_path):
    def write(name, height, width):
        cv2.imwrite(str(tmp_path / name), np.zeros((height, width, 3), np.uint8))
        return tmp_path / name

    return write


def test_a_refused_picture_is_named_and_the_others_are_written(picture, tmp_path):
    pictures = [picture('tiny.png', 20, 40), picture('fine.png', 40, 40)]
    tiny, fine = write_predictions(Picky(), pictures, tmp_path / 'out')
    assert tiny.problem == f'{pictures[0]}, 40 x 20 pixels: needs images of at least 32x32' and not tiny.files
    assert fine.problem is None and all(path.is_file() for path in fine.files) and len(fine.files) == 2


def test_a_broken_model_is_an_error_that_names_the_picture(picture, tmp_path):
    with pytest.raises(PredictionError, match=r'wide\.png, 50 x 40 pixels: size mismatch'):
        list(write_predictions(Picky(), [picture('wide.png', 40, 50)], tmp_path / 'out'))

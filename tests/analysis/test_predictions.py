"""Predictions of image files, written as files."""

import json

import cv2
import numpy as np
import pytest

from mmfreq.analysis.predictions import write_predictions
from mmfreq.analysis.results import PredictionError
from mmfreq.apis.reading import ImageReader


class ReadsColor:
    read = ImageReader()
    shown = read.shown


class PickySegmentor(ReadsColor):
    """A segmentor that rejects images below 32x32 and fails on others that are wider than high."""

    task, classes, palette = 'segmentation', ['all'], [(1, 2, 3)]

    def __call__(self, image):
        if min(image.shape[:2]) < 32:
            raise ValueError('needs images of at least 32x32')
        if image.shape[1] > image.shape[0]:
            raise RuntimeError('size mismatch')
        return np.zeros(image.shape[:2], np.uint8)


class Detector(ReadsColor):
    """Finds two objects in every image, the second with a low score."""

    task, classes, palette = 'detection', ['one', 'other'], [(200, 0, 0), (0, 200, 0)]

    def __init__(self, with_masks):
        self.masks = np.zeros((2, 40, 60), bool) if with_masks else None
        if with_masks:
            self.masks[0, 20:30, 30:50] = self.masks[1, 5:10, 5:10] = True

    def __call__(self, image):
        boxes = np.array([[30.123, 20, 50, 30], [5, 5, 10, 10]])
        return dict(boxes=boxes, labels=np.array([0, 1]), scores=np.array([0.9, 0.1]), masks=self.masks)


@pytest.fixture
def black_image(tmp_path):
    def write(name, height, width):
        cv2.imwrite(str(tmp_path / name), np.zeros((height, width, 3), np.uint8))
        return tmp_path / name

    return write


def test_rejected_image_is_named_and_the_others_are_written(black_image, tmp_path):
    paths = [black_image('tiny.png', 20, 40), black_image('fine.png', 40, 40)]
    tiny, fine = write_predictions(PickySegmentor(), paths, tmp_path / 'out')
    assert tiny.problem == f'{paths[0]}, 40 x 20 pixels: needs images of at least 32x32' and not tiny.files
    assert fine.problem is None and all(path.is_file() for path in fine.files) and len(fine.files) == 2


def test_failing_model_raises_an_error_that_names_the_image(black_image, tmp_path):
    with pytest.raises(PredictionError, match=r'wide\.png, 50 x 40 pixels: size mismatch'):
        list(write_predictions(PickySegmentor(), [black_image('wide.png', 40, 50)], tmp_path / 'out'))


@pytest.mark.parametrize('with_masks', [True, False])
def test_all_detections_are_written_and_those_above_the_threshold_drawn(black_image, tmp_path, with_masks):
    (written,) = write_predictions(Detector(with_masks), [black_image('a.png', 40, 60)], tmp_path / 'out')
    drawn, report = cv2.imread(str(written.files[0]))[..., ::-1], json.loads(written.files[1].read_text())
    assert report['image'] == 'a.png' and report['size'] == [40, 60]
    assert report['boxes'][0] == [30.12, 20, 50, 30] and report['names'] == ['one', 'other'] and report['scores'] == [0.9, 0.1]
    assert len(report.get('masks', [])) == 2 * with_masks
    assert (drawn[25, 40].tolist() == [100, 0, 0]) == with_masks  # half of the color, inside the first mask
    assert not drawn[5:10, 5:10].any()

"""A batch gives the predictions of single images, whatever their sizes, and large logits are a warning."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.apis import inference
from mmfreq.apis.inference import Predictor
from mmfreq.errors import InputError
from mmfreq.testing.toy_segmentation import toy_segmentation_config

MASK_RCNN = Path(__file__).parents[2] / 'configs/det/hornet/hornet-micro_mask-rcnn_1xb4-8e_toy-160x192.py'
SIZES = [(64, 80), (64, 80), (90, 64), (64, 80), (48, 48), (90, 64)]


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


@pytest.fixture(scope='module')
def segmentor():
    torch.manual_seed(0)
    predictor = Predictor(Config(toy_segmentation_config('none')), None)
    torch.nn.init.normal_(predictor.loaded.decode_head.conv_seg.weight)
    return predictor


@pytest.fixture(scope='module')
def detector():
    torch.manual_seed(0)
    cfg = Config.fromfile(MASK_RCNN)
    cfg.merge_from_dict({'model.test_cfg.rcnn.score_thr': 0.0, 'model.test_cfg.rcnn.max_per_img': 5})
    predictor = Predictor(cfg, None)
    torch.nn.init.normal_(predictor.loaded.roi_head.bbox_head.fc_cls.weight, std=0.1)  # scores that differ
    return predictor


@pytest.fixture
def forwards(monkeypatch):
    """The numbers of images in the calls of `test_step`."""
    sizes = []

    def count(predictor):
        test_step = predictor.model.test_step

        def counted(data):
            sizes.append(len(data['inputs']))
            return test_step(data)

        monkeypatch.setattr(predictor.model, 'test_step', counted)
        return sizes

    return count


def test_batches_of_a_segmentor_equal_single_images(segmentor, images, forwards):
    expected, sizes = [segmentor(image) for image in images], forwards(segmentor)
    found = segmentor.predict_batch(images)
    assert sizes == [3, 2, 1]  # images of one size share a forward
    for ids, single, image in zip(found, expected, images):
        assert ids.shape == image.shape[:2] and ids.dtype == np.uint8 and len(np.unique(single)) > 1
        assert (ids != single).mean() < 1e-3  # classes with equal logits up to rounding
    assert segmentor.predict_batch([]) == []


def test_batches_of_a_detector_equal_single_images(detector, images, forwards):
    expected, sizes = [detector(image) for image in images], forwards(detector)
    found = detector.predict_batch(images)
    assert sizes == [3, 2, 1]
    for batched, single in zip(found, expected):
        assert len(single['scores']) == 5 and np.ptp(single['scores']) > 1e-3
        np.testing.assert_array_equal(batched['labels'], single['labels'])
        np.testing.assert_allclose(batched['scores'], single['scores'], atol=1e-5)
        np.testing.assert_allclose(batched['boxes'], single['boxes'], atol=1e-2)
        assert (batched['masks'] != single['masks']).mean() < 1e-3


def test_an_image_with_other_channels_is_refused_in_a_batch(segmentor, images):
    with pytest.raises(InputError, match='channels of the image is 4'):
        segmentor.predict_batch([images[0], np.dstack([images[1], images[1][..., 0]])])


def test_large_logits_are_one_warning_that_names_the_windows(segmentor, detector, images, monkeypatch):
    messages = []
    monkeypatch.setattr(inference, 'log_once', lambda message, level: messages.append(message))
    monkeypatch.setattr(segmentor, '_warned', False)
    monkeypatch.setattr(inference, 'LARGE', 4 * 6 * 64 * 80)  # bytes: as much as one image of the smaller size
    segmentor(images[0])
    assert not messages
    segmentor(images[2])
    segmentor(images[2])
    detector(images[2])
    (message,) = messages
    assert '1 image(s) of 64 x 90 pixels' in message and '6 classes' in message and '--slide' in message
    monkeypatch.setattr(segmentor, '_warned', False)
    segmentor.predict_batch(images[:2])
    assert '2 image(s) of 80 x 64 pixels' in messages[1]

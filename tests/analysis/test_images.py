"""Image files are read, and images reach a model in its size, channel order and scale."""

import cv2
import numpy as np
import pytest

from mmfreq.analysis.images import load_images, normalize, resize_and_crop, synthetic_images
from mmfreq.apis.reading import ImageReader


def test_load_images_returns_rgb_and_rejects_other_files(tmp_path):
    read = ImageReader().bands
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / 'a.png'), red)
    cv2.imwrite(str(tmp_path / 'b.png'), red)
    images = load_images([tmp_path], (32, 40), 5, read)
    assert images.shape == (2, 32, 40, 3) and (images[..., 0] == 255).all() and not images[..., 1:].any()
    assert len(load_images([tmp_path], (32, 40), 1, read)) == 1
    (tmp_path / 'c.png').write_text('not an image')
    with pytest.raises(ValueError, match=r'c\.png cannot be read'):
        load_images([tmp_path], (32, 40), 5, read)
    with pytest.raises(ValueError, match='at least 32 x 32 pixels, got 32 x 31'):
        load_images([tmp_path], (32, 31), 1, read)


def test_synthetic_images_are_reproducible_and_differ_from_one_another():
    first, second = synthetic_images((48, 64), 2), synthetic_images((48, 64), 2)
    assert first.shape == (2, 48, 64, 3) and (first == second).all() and (first[0] != first[1]).any()
    with pytest.raises(ValueError, match='at least 32'):
        synthetic_images((16, 64), 1)


def test_synthetic_images_of_other_channels_are_made_of_the_same_scenes():
    rgb = synthetic_images((48, 64), 2).astype(float)
    gray, five, two = (synthetic_images((48, 64), 2, channels) for channels in (1, 5, 2))
    assert gray.shape == (2, 48, 64, 1) and gray.dtype == five.dtype == np.uint8
    np.testing.assert_allclose(gray[..., 0], rgb @ (0.299, 0.587, 0.114), atol=0.51)
    assert (five[..., :3] == rgb).all() and (two == rgb[..., :2]).all()
    assert (five == synthetic_images((48, 64), 2, 5)).all() and (five[..., 3] != five[..., 4]).any()
    assert (five[..., 3:] >= rgb.min(-1, keepdims=True) - 0.51).all() and (five[..., 3:] <= rgb.max(-1, keepdims=True) + 0.51).all()


@pytest.mark.parametrize('shape', [(40, 80), (80, 40), (33, 47), (300, 200)])
def test_resize_and_crop_keeps_the_center_and_the_proportions(shape):
    image = np.zeros((*shape, 3), np.uint8)
    image[shape[0] // 2 - 4 : shape[0] // 2 + 4, shape[1] // 2 - 4 : shape[1] // 2 + 4] = 255
    cropped = resize_and_crop(image, (64, 48))
    assert cropped.shape == (64, 48, 3)
    rows, columns = np.nonzero(cropped[..., 0] > 127)
    assert abs(rows.mean() - 31.5) < 1.5 and abs(columns.mean() - 23.5) < 1.5
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int16', 'uint32', 'int64', 'float32', 'float64'])
@pytest.mark.parametrize('channels', [1, 2, 5])
def test_images_of_any_type_and_channels_are_scaled(dtype, channels):
    image = np.tile(np.arange(channels, dtype=dtype) * 20, (40, 60, 1))
    scaled = resize_and_crop(image, (20, 24))
    assert scaled.shape == (20, 24, channels)
    np.testing.assert_allclose(scaled[10, 10], np.arange(channels) * 20)


def test_normalize_keeps_the_order_of_bands():
    images = np.zeros((1, 4, 6, 5), np.uint16) + np.arange(0, 5000, 1000, dtype=np.uint16)
    for channels in (1, 5):
        values = normalize(images[..., :channels], (1000,) * channels, (500,) * channels, 'bands')
        assert values.shape == (1, channels, 4, 6) and values[0, :, 0, 0].tolist() == [-2, 0, 2, 4, 6][:channels]


def test_normalize_uses_the_channel_order_of_the_model():
    images = np.zeros((1, 4, 5, 3), np.uint8)
    images[..., 0], images[..., 2] = 200, 10  # red and blue
    rgb, bgr = (normalize(images, (10, 20, 30), (2, 4, 5), order) for order in ('RGB', 'BGR'))
    assert rgb.shape == (1, 3, 4, 5) and rgb[0, :, 0, 0].tolist() == [95, -5, -4]
    assert bgr[0, :, 0, 0].tolist() == [0, -5, 34]


def test_videos_are_no_images_to_load(tmp_path):
    (tmp_path / 'clip.mp4').write_bytes(b'')
    with pytest.raises(FileNotFoundError, match='only videos'):
        load_images([tmp_path], (32, 40), 1, ImageReader())

"""Uploaded images: read as in training, or refused with an error that gives the remedy."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from mmfreq.demo.uploads import read_upload
from mmfreq.errors import DataError
from tests.broken_images import READABLE, UNREADABLE


def encoded(shape, suffix='.png', dtype=np.uint8):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    return image, cv2.imencode(suffix, image)[1].tobytes()


def test_small_image_is_not_changed():
    image, data = encoded((40, 56, 3))
    upload = read_upload(data, 64)
    np.testing.assert_array_equal(upload.image, image)
    assert upload.size == (56, 40)


def test_gray_alpha_and_jpeg_become_three_channels():
    for shape, suffix in (((40, 56), '.png'), ((40, 56, 4), '.png'), ((40, 56, 3), '.jpg'), ((40, 56, 3), '.webp')):
        assert read_upload(encoded(shape, suffix)[1], 64).image.shape == (40, 56, 3)


def test_large_image_is_scaled_down_and_its_original_size_kept():
    upload = read_upload(encoded((300, 200, 3))[1], 64)
    assert upload.image.shape == (64, 43, 3) and upload.size == (200, 300)


def test_exif_orientation_is_applied():
    from io import BytesIO

    from PIL import Image

    exif = Image.Exif()
    exif[274] = 6  # rotated by 90 degrees
    Image.new('RGB', (60, 40)).save(file := BytesIO(), 'JPEG', exif=exif)
    assert read_upload(file.getvalue(), 1000).size == (40, 60)


def chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def empty_png(width, height):
    """A few bytes whose header declares an image of any size."""
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'empty'),
        (b'text', 'not an image'),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'not an image'),
        (encoded((40, 56, 3))[1][:60], 'damaged'),
        (empty_png(10_000, 10_000), '10000 x 10000 pixels'),
        (empty_png(60_000, 60_000), 'too large'),
    ],
)
def test_error_names_the_problem(data, message):
    with pytest.raises(DataError, match=message):
        read_upload(data, 64)


@pytest.mark.parametrize('case', [name for name in UNREADABLE if name not in ('TIFF of real numbers', 'PNG without its end')])
def test_error_of_broken_images(case):
    with pytest.raises(DataError, match=r'empty|not an image|damaged|too large|pixels'):
        read_upload(UNREADABLE[case][0], 64)


def test_unusual_images_are_read():
    for case, data in READABLE.items():
        image = read_upload(data, 64).image
        assert image.shape == (48, 64, 3) and image.dtype == np.uint8 and image.std() > 20, case

"""Pictures from bytes: as training reads them, or an error that says what to do."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from mmfreq.demo.server import read_upload
from mmfreq.errors import DataError
from tests.broken_pictures import READABLE, UNREADABLE


def encoded(shape, suffix='.png', dtype=np.uint8):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    return image, cv2.imencode(suffix, image)[1].tobytes()


def test_a_small_picture_stays_as_it_is():
    image, data = encoded((40, 56, 3))
    upload = read_upload(data, 64)
    np.testing.assert_array_equal(upload.image, image)
    assert upload.size == (56, 40)


def test_grey_alpha_and_jpeg_become_three_channels():
    for shape, suffix in (((40, 56), '.png'), ((40, 56, 4), '.png'), ((40, 56, 3), '.jpg'), ((40, 56, 3), '.webp')):
        assert read_upload(encoded(shape, suffix)[1], 64).image.shape == (40, 56, 3)


def test_a_large_one_is_scaled_down_and_its_size_told():
    upload = read_upload(encoded((300, 200, 3))[1], 64)
    assert upload.image.shape == (64, 43, 3) and upload.size == (200, 300)


def test_orientation_in_the_file_is_followed():
    from io import BytesIO

    from PIL import Image

    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new('RGB', (60, 40)).save(file := BytesIO(), 'JPEG', exif=exif)
    assert read_upload(file.getvalue(), 1000).size == (40, 60)


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def empty_png(width, height):
    """A few bytes that announce a picture of any size."""
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


@pytest.mark.parametrize(
    ('data', 'told'),
    [
        (b'', 'empty'),
        (b'nothing of the kind', 'not a picture'),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'not a picture'),
        (encoded((40, 56, 3))[1][:60], 'damaged'),
        (empty_png(10_000, 10_000), '10000 x 10000 pixels'),
        (empty_png(60_000, 60_000), 'too large'),
    ],
)
def test_anything_else_is_an_error_in_words(data, told):
    with pytest.raises(DataError, match=told):
        read_upload(data, 64)


@pytest.mark.parametrize('case', [name for name in UNREADABLE if name not in ('TIFF of real numbers', 'PNG without its end')])
def test_broken_pictures_are_an_error_in_words(case):
    with pytest.raises(DataError, match=r'empty|not a picture|damaged|too large|pixels'):
        read_upload(UNREADABLE[case][0], 64)


def test_unusual_pictures_are_read():
    for case, data in READABLE.items():
        image = read_upload(data, 64).image
        assert image.shape == (48, 64, 3) and image.dtype == np.uint8 and image.std() > 20, case

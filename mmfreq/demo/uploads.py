"""Uploaded images: checked, and read as the files of the model's data set are."""

import io
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmfreq.apis.reading import ImageReader
from mmfreq.datasets.image_header import fault_of, tiff_shape
from mmfreq.errors import DataError, InputError

MAX_PIXELS = 60_000_000  # 180 MB decoded
EXPECTED_IMAGE = 'Choose a PNG, JPEG, WebP or BMP image.'


@dataclass(frozen=True)
class Upload:
    """An uploaded image as the model takes it, such as (H, W, 3) uint8 BGR; `size` is its (width, height) before scaling."""

    image: np.ndarray
    size: tuple[int, int]


def read_upload(data: bytes, max_side: int, read: ImageReader | None = None) -> Upload:
    """The image in `data`, read as in training and scaled down to sides of at most `max_side`.

    Args:
        read: of the model; by default color images are read. For a model of gray images a color image is converted.

    Raises:
        DataError: not an image, one with too many pixels, or one with other channels than the model takes.
        UserError: the model's files are read with a package that is not installed.
    """
    if not data:
        raise DataError(f'The file is empty. {EXPECTED_IMAGE}')
    width, height = _size_in_header(data)
    if width * height > MAX_PIXELS:
        raise DataError(f'At most {MAX_PIXELS // 10**6} million pixels can be read; the image has {width} x {height} pixels.')
    image = _decoded(data, read or ImageReader())
    height, width = image.shape[:2]  # after the rotation by its EXIF orientation
    return Upload(_within(image, max_side), (width, height))


def _decoded(data: bytes, read: ImageReader) -> np.ndarray:
    image = None if read.color else _read_file(data, read)
    if image is not None:
        return image
    if read.channels not in (1, 3):
        raise DataError(f'The model takes images with {read.channels} channels: choose a TIFF file with {read.channels} bands.')
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    cut = data.startswith(b'\xff\xd8') and not data.endswith(b'\xff\xd9')  # OpenCV 4 fills the rest of such a JPEG with black
    if image is None or (cut and fault_of(io.BytesIO(data))):
        raise DataError(f'The image is damaged or in an unsupported format. {EXPECTED_IMAGE}')
    return read.of_color_image(image)


def _read_file(data: bytes, read: ImageReader) -> np.ndarray | None:
    """The image by the model's own reader, which reads files; None if it is not one with the channels of the model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'upload'
        path.write_bytes(data)
        try:
            image = read(path)
        except InputError:
            return None
    return image if read.channels == (1 if image.ndim == 2 else image.shape[2]) else None


def _size_in_header(data: bytes) -> tuple[int, int]:
    """(width, height) from the header of the file, before memory is allocated for its pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as header:
                return header.size
    except Image.DecompressionBombError:
        raise DataError(f'The image is too large: at most {MAX_PIXELS // 10**6} million pixels can be read.') from None
    except Exception:  # plug-ins of Pillow raise all sorts of exceptions for other files
        height, width, _ = tiff_shape(io.BytesIO(data))  # of more bands than Pillow reads
        if height and width:
            return width, height
        raise DataError(f'The file is not an image that can be read. {EXPECTED_IMAGE}') from None


def _within(image: np.ndarray, max_side: int) -> np.ndarray:
    factor = max_side / max(image.shape[:2])
    if factor >= 1:
        return image
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

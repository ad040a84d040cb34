"""A picture from the bytes of a request, within bounds that are checked before it is decoded.

Legend: H W the picture as the model gets it.
"""

import io
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from mmfreq.datasets.picture_header import fault_of
from mmfreq.engine.errors import DataError

MAX_BYTES = 24 * 2**20
MAX_PIXELS = 60_000_000  # 180 MB decoded


@dataclass(frozen=True)
class Upload:
    """image (H, W, 3) uint8 BGR; `size` (width, height) is that of the picture as sent."""

    image: np.ndarray
    size: tuple[int, int]


def read_upload(data: bytes, max_side: int) -> Upload:
    """The picture in `data`, read as in training (see `read_picture`) and scaled down to sides of at most `max_side`.

    Raises:
        DataError: no picture, or one with too many pixels.
    """
    if not data:
        raise DataError('the file is empty; choose a PNG, JPEG, WebP or BMP picture')
    width, height = _announced_size(data)
    if width * height > MAX_PIXELS:
        raise DataError(f'the picture has {width} x {height} pixels; at most {MAX_PIXELS // 10**6} million can be read')
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    cut = data.startswith(b'\xff\xd8') and not data.endswith(b'\xff\xd9')  # OpenCV 4 makes the rest of such a JPEG black
    if image is None or (cut and fault_of(io.BytesIO(data))):
        raise DataError('the picture is damaged or of a kind that cannot be read; choose a PNG, JPEG, WebP or BMP picture')
    height, width = image.shape[:2]  # an orientation in the file has turned it
    return Upload(_within(image, max_side), (width, height))


def _announced_size(data: bytes) -> tuple[int, int]:
    """What the file's header says, before any memory is taken for its pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as header:
                return header.size
    except Image.DecompressionBombError:
        raise DataError(f'the picture is too large; at most {MAX_PIXELS // 10**6} million pixels can be read') from None
    except Exception:  # whatever a plug-in of Pillow makes of bytes that are no picture
        raise DataError('the file is not a picture that can be read; choose a PNG, JPEG, WebP or BMP picture') from None


def _within(image: np.ndarray, max_side: int) -> np.ndarray:
    factor = max_side / max(image.shape[:2])
    if factor >= 1:
        return image
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

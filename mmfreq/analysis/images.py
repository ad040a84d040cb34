"""Images as input of a model: read them as in training, resize and normalize them.

Legend: N images, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mmfreq.analysis.inputs import find_inputs
from mmfreq.datasets.image_header import decoding_fault, read_header
from mmfreq.datasets.toy import MIN_SIDE, draw_scene


def read_image(path):
    """Read an image as mmcv's LoadImageFromFile does: (H, W, 3) uint8 BGR; gray is repeated, alpha dropped, 16 bits become 8.

    Returns None if the file is not an image, is truncated, or has more pixels than OpenCV accepts (2^30).
    """
    try:
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        complete = image is None or read_header(str(path)).complete or not decoding_fault(str(path))
    except (OSError, cv2.error):
        return None
    return image if complete else None


def load_images(inputs: Sequence[str | Path], size: tuple[int, int], count: int) -> np.ndarray:
    """Load the first `count` images of `inputs` (see `find_inputs`), scaled to cover `size` (H, W) and center-cropped.

    Shape:
        `(N, H, W, 3)` uint8 RGB.

    Raises:
        FileNotFoundError: an input matches no file.
        ValueError: a file is not an image, or a side is below `MIN_SIDE`.
    """
    check_size(size)
    images = []
    found = [item.path for item in find_inputs(inputs).inputs if not item.is_video]
    if not found:
        raise FileNotFoundError(f'There are only videos in {", ".join(map(str, inputs))}. Give images.')
    for path in found[:count]:
        image = read_image(path)
        if image is None:
            raise ValueError(f'{path} cannot be read as an image.')
        images.append(resize_and_crop(np.ascontiguousarray(image[..., ::-1]), size))
    return np.stack(images)


def synthetic_images(size: tuple[int, int], count: int) -> np.ndarray:
    """Generate scenes of simple shapes, `(count, H, W, 3)` uint8 RGB; the same at every call."""
    check_size(size)
    rng = np.random.default_rng(0)
    return np.stack([draw_scene(rng, size).image for _ in range(count)])


def check_size(size: tuple[int, int]) -> None:
    """Raise a ValueError for sides that are too small for any backbone."""
    if min(size) < MIN_SIDE:
        raise ValueError(f'The image size must be at least {MIN_SIDE} x {MIN_SIDE} pixels, got {size[0]} x {size[1]}.')


def resize_and_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale an image so that it just covers `size` (H, W), and crop the center."""
    height, width = size
    scale = max(height / image.shape[0], width / image.shape[1])
    scaled = tuple(max(round(side * scale), wanted) for side, wanted in zip(image.shape[:2], size))
    image = cv2.resize(image, scaled[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    return image[top : top + height, left : left + width]


def normalize(images: np.ndarray, mean: Sequence[float], std: Sequence[float], channels: str = 'RGB') -> Tensor:
    """Convert images `(N, H, W, 3)` uint8 RGB to the input `(N, 3, H, W)` float32 of a model: `(pixel - mean) / std`.

    Args:
        mean, std: on the scale 0..255, in the order of `channels`.
        channels: order of the model's input channels, 'RGB' or 'BGR'.
    """
    ordered = images[..., ::-1] if channels == 'BGR' else images
    values = (ordered.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))

"""Images as input of a model: find them, resize and normalize them.

Legend: N images, H W pixels, C channels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mmfreq.analysis.inputs import find_inputs
from mmfreq.datasets.toy import MIN_SIDE, draw_scene

GRAY = (0.299, 0.587, 0.114)  # shares of red, green and blue
RESIZABLE = (np.uint8, np.uint16, np.int16, np.float32, np.float64)  # by OpenCV


def load_images(inputs: Sequence[str | Path], size: tuple[int, int], count: int, read: Callable[[Path], np.ndarray]) -> np.ndarray:
    """Load the first `count` images of `inputs` (see `find_inputs`), scaled to cover `size` (H, W) and center-cropped.

    Args:
        read: from a file to an image `(H, W, C)`, such as `ImageReader.bands`.

    Shape:
        `(N, H, W, C)`.

    Raises:
        FileNotFoundError: an input matches no file.
        ValueError: a side is below `MIN_SIDE`; and the errors of `read`.
    """
    check_size(size)
    found = [item.path for item in find_inputs(inputs).inputs if not item.is_video]
    if not found:
        raise FileNotFoundError(f'There are only videos in {", ".join(map(str, inputs))}. Give images.')
    return np.stack([resize_and_crop(read(path), size) for path in found[:count]])


def synthetic_images(size: tuple[int, int], count: int, channels: int = 3) -> np.ndarray:
    """Generate scenes of simple shapes, `(count, H, W, channels)` uint8; the same at every call.

    One channel is the gray image of the RGB scene. The first channels of several are RGB, further ones are mixtures of these.
    """
    check_size(size)
    rng = np.random.default_rng(0)
    scenes = np.stack([draw_scene(rng, size).image for _ in range(count)])
    if channels == 3:
        return scenes
    further = np.random.default_rng(channels).dirichlet((1, 1, 1), max(channels - 3, 0))
    shares = np.concatenate([np.eye(3), further])[:channels] if channels > 1 else np.array([GRAY])
    return (scenes @ shares.T).round().astype(np.uint8)


def check_size(size: tuple[int, int]) -> None:
    """Raise a ValueError for sides that are too small for any backbone."""
    if min(size) < MIN_SIDE:
        raise ValueError(f'The image size must be at least {MIN_SIDE} x {MIN_SIDE} pixels, got {size[0]} x {size[1]}.')


def resize_and_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale an image (H, W, C) so that it just covers `size` (H, W), and crop the center."""
    height, width = size
    image = np.ascontiguousarray(image if image.dtype in RESIZABLE else image.astype(np.float32))
    scale = max(height / image.shape[0], width / image.shape[1])
    scaled = tuple(max(round(side * scale), wanted) for side, wanted in zip(image.shape[:2], size))
    image = cv2.resize(image, scaled[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    image = image if image.ndim == 3 else image[..., None]  # OpenCV drops a single channel
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    return image[top : top + height, left : left + width]


def normalize(images: np.ndarray, mean: Sequence[float], std: Sequence[float], channels: str = 'RGB') -> Tensor:
    """Convert images `(N, H, W, C)`, colors as RGB, to the input `(N, C, H, W)` float32 of a model: `(pixel - mean) / std`.

    Args:
        mean, std: on the scale of the pixels, in the order of `channels`.
        channels: order of the model's input channels, as in `Normalization`: only 'BGR' is not the order of the images.
    """
    ordered = images[..., ::-1] if channels == 'BGR' else images
    values = (ordered.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))

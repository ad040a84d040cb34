"""Pictures as models want them: from files, or drawn where there are none; cut to one size and normalised.

Legend: N pictures, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mmfreq.analysis.picture_files import find_pictures, read_picture
from mmfreq.datasets.toy_scene import MIN_SIDE, draw_scene


def load_pictures(inputs: Sequence[str | Path], size: tuple[int, int], count: int) -> np.ndarray:
    """The first `count` pictures meant by files, folders and globs, scaled to cover `size` (H, W) and cut around their centre.

    Shape:
        `(N, H, W, 3)` uint8 RGB.

    Raises:
        FileNotFoundError: an input stands for no file.
        ValueError: a file is no picture, or a side is below `MIN_SIDE`.
    """
    check_size(size)
    return np.stack([cover(_read(path), size) for path in find_pictures(inputs)[:count]])


def drawn_scenes(size: tuple[int, int], count: int, seed: int = 0) -> np.ndarray:
    """Generated scenes, the same for the same arguments, `(count, H, W, 3)` uint8 RGB; sides as in `load_pictures`."""
    check_size(size)
    rng = np.random.default_rng(seed)
    return np.stack([draw_scene(rng, size).image for _ in range(count)])


def check_size(size: tuple[int, int]) -> None:
    """Refuse sides that no backbone takes."""
    if min(size) < MIN_SIDE:
        raise ValueError(f'pictures of {size[0]} x {size[1]} are asked for; the sides are at least {MIN_SIDE} pixels')


def cover(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture scaled so that it just covers `size` (H, W), and cut around its centre; an array of that size."""
    height, width = size
    scale = max(height / picture.shape[0], width / picture.shape[1])
    scaled = tuple(max(round(side * scale), wanted) for side, wanted in zip(picture.shape[:2], size))
    picture = cv2.resize(picture, scaled[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    return picture[top : top + height, left : left + width]


def normalised(pictures: np.ndarray, mean: Sequence[float], std: Sequence[float], channels: str = 'RGB') -> Tensor:
    """Pictures `(N, H, W, 3)` uint8 RGB as the input `(N, 3, H, W)` float32 of a model.

    Args:
        mean, std: taken off, and then divided by, in the order of `channels` and on the scale 0..255.
        channels: 'RGB' or 'BGR'.
    """
    ordered = pictures[..., ::-1] if channels == 'BGR' else pictures
    values = (ordered.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def _read(path: Path) -> np.ndarray:
    picture = read_picture(path)
    if picture is None:
        raise ValueError(f'{path} cannot be read as a picture')
    return np.ascontiguousarray(picture[..., ::-1])

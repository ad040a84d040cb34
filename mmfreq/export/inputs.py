"""Inputs on which an exported file is compared with its model."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mmfreq.datasets.toy_scene import draw_scene
from mmfreq.engine.errors import DataError
from mmfreq.engine.subjects import Normalisation


def comparison_inputs(size: tuple[int, int], normalisation: Normalisation, picture: str | Path | None = None) -> dict[str, Tensor]:
    """Two inputs of random numbers and a picture, by name.

    Args:
        size: (H, W).
        picture: file; a drawn scene by default.

    Shape:
        Each `(1, 3, H, W)`.

    Raises:
        DataError: the file is no picture.
    """
    generator = torch.Generator().manual_seed(0)
    found = {f'random input {i}': torch.randn(1, 3, *size, generator=generator) for i in (1, 2)}
    if picture is None:
        rgb = draw_scene(np.random.default_rng(0), tuple(max(side, 32) for side in size)).image
    else:
        bgr = cv2.imread(str(picture))
        if bgr is None:
            raise DataError(f'{picture} is not a picture that OpenCV reads')
        rgb = bgr[..., ::-1]
    rgb = cv2.resize(np.ascontiguousarray(rgb), size[::-1], interpolation=cv2.INTER_AREA)
    pixels = rgb if normalisation.channels == 'RGB' else rgb[..., ::-1]
    normal = (pixels.astype(np.float32) - np.float32(normalisation.mean)) / np.float32(normalisation.std)
    found['drawn scene' if picture is None else Path(picture).name] = torch.from_numpy(normal).permute(2, 0, 1)[None].contiguous()
    return found

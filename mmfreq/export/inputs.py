"""Inputs on which an exported file is compared with its model."""

from pathlib import Path

import torch
from torch import Tensor

from mmfreq.analysis.pictures import drawn_scenes, load_pictures, normalised
from mmfreq.engine.subjects import Normalisation


def comparison_inputs(size: tuple[int, int], normalisation: Normalisation, picture: str | Path | None = None) -> dict[str, Tensor]:
    """Two inputs of random numbers and a picture, by name.

    Args:
        size: (H, W).
        picture: file; a drawn scene by default.

    Shape:
        Each `(1, 3, H, W)`.

    Raises:
        FileNotFoundError, ValueError: no such file, or it is no picture; sides that no backbone takes.
    """
    generator = torch.Generator().manual_seed(0)
    found = {f'random input {i}': torch.randn(1, 3, *size, generator=generator) for i in (1, 2)}
    pixels = load_pictures([picture], size, 1) if picture else drawn_scenes(size, 1)
    name = Path(picture).name if picture else 'drawn scene'
    return found | {name: normalised(pixels, normalisation.mean, normalisation.std, normalisation.channels)}

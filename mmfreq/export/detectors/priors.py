"""Anchors and points of mmdetection's prior generators, computed from the shapes of the maps.

Sizes may be symbolic: nothing here depends on their values.

Legend: H W grid of a level, A anchors of a cell, N = H W A.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator
from torch import Tensor

from mmfreq.errors import UserError
from mmfreq.models.ssdlite import AFFNetSSDAnchorGenerator, centered, corners


@dataclass(frozen=True)
class Anchors:
    """Anchors of a level.

    Attributes:
        boxes: (x1, y1, x2, y2) of the A anchors of the first cell, in pixels.
        stride: (x, y) distance of cells.

    Shape:
        Called with a map `(1, C, H, W)` of the level and the images, `(N, 4)`: cells row by row, then the anchors of a cell.
    """

    boxes: Sequence[Sequence[float]]
    stride: tuple[int, int]

    def __call__(self, level: Tensor, images: Tensor) -> Tensor:
        cells = _grid(level, self.stride, 0.0).repeat(1, 2)
        boxes = torch.tensor(self.boxes, device=level.device)
        return (boxes[None] + cells[:, None]).reshape(-1, 4)


@dataclass(frozen=True)
class Points:
    """Points of a level, one for each cell.

    Attributes:
        stride: (x, y) distance of cells.
        offset: of a point from its cell's corner, as a fraction of the stride.

    Shape:
        Called with a map `(1, C, H, W)` of the level and the images, `(H W, 2)`: (x, y), row by row.
    """

    stride: tuple[int, int]
    offset: float

    def __call__(self, level: Tensor, images: Tensor) -> Tensor:
        return _grid(level, self.stride, self.offset)


@dataclass(frozen=True)
class FractionAnchors:
    """Anchors of a level of AFFNet's SSDLite, whose sides are fractions of the image.

    Attributes:
        sides: (width, height) of the A anchors of each cell.

    Shape:
        Called with a map `(1, C, H, W)` of the level and the images, `(N, 4)`.
    """

    sides: Sequence[tuple[float, float]]

    def __call__(self, level: Tensor, images: Tensor) -> Tensor:
        boxes = corners(centered(level.shape[2:], list(self.sides), level.device))
        height, width = images.shape[2:]
        return torch.stack((boxes[:, 0] * width, boxes[:, 1] * height, boxes[:, 2] * width, boxes[:, 3] * height), 1)


def priors_of(generator: Any) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """One function for each level: from a map of the level and the images to the level's anchors or points.

    Args:
        generator: mmdetection's `AnchorGenerator` or `MlvlPointGenerator`, a subclass that places them in the same way, such as
            `SSDAnchorGenerator`, or `AFFNetSSDAnchorGenerator`.

    Raises:
        UserError: another generator.
    """
    if isinstance(generator, AFFNetSSDAnchorGenerator):
        return [FractionAnchors(sides) for sides in generator.sides]
    if _places_as(generator, AnchorGenerator):
        return [Anchors(boxes.tolist(), stride) for boxes, stride in zip(generator.base_anchors, generator.strides, strict=True)]
    if _places_as(generator, MlvlPointGenerator):
        return [Points(stride, generator.offset) for stride in generator.strides]
    raise UserError(
        'Expected a detector with the prior generator AnchorGenerator, SSDAnchorGenerator, MlvlPointGenerator or '
        f"AFFNetSSDAnchorGenerator, found {type(generator).__name__}. Export another output, such as 'features'."
    )


def _places_as(generator: Any, known: type) -> bool:
    """Whether the generator is of this class and does not replace its computation of priors."""
    methods = ('grid_priors', 'single_level_grid_priors')
    return isinstance(generator, known) and all(getattr(type(generator), name) is getattr(known, name) for name in methods)


def _grid(level: Tensor, stride: tuple[int, int], offset: float) -> Tensor:
    """(x, y) of every cell in pixels, `(H W, 2)`, row by row."""
    y, x = ((torch.arange(n, device=level.device) + offset) * step for n, step in zip(level.shape[2:], reversed(stride)))
    return torch.stack(torch.meshgrid(x, y, indexing='xy'), -1).reshape(-1, 2)

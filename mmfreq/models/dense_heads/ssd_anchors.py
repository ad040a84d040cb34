"""Anchors of AFFNet's SSDLite detector (CVNets' priors), as fractions of the image.

Legend: N batch, A anchors of a cell, H W grid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmfreq.registry import TASK_UTILS

RATIOS = ((2, 3), (2, 3), (2, 3), (2, 3), (2, 3), (2,))


@TASK_UTILS.register_module()
class AFFNetSSDAnchorGenerator:
    """A level's cells share the image evenly; each has two squares, and for each ratio a wide and a tall box.

    Scales are spaced evenly over `scale_range`, one per level and one more. With s of the level and t of the next, the sides are
    (s, s), (sqrt(s t), sqrt(s t)), then (s sqrt(r), s / sqrt(r)) and its transpose for each ratio r. Sides are cut to the image's;
    the corners may lie outside of it.

    Unlike mmdet's generators the boxes are fractions of the image, (0, 0) to (1, 1), whatever its size and proportions;
    `AFFNetSSDLiteHead` turns them into pixels. Other heads of mmdet do not.

    Args:
        ratios: for each level the ratios greater than 1.
        scale_range: the first level's scale, and the one after the last level's.
    """

    def __init__(self, ratios: Sequence[Sequence[float]] = RATIOS, scale_range: tuple[float, float] = (0.1, 1.05)):
        first, last = scale_range
        step = (last - first) / len(ratios)
        scales = [first + step * i for i in range(len(ratios) + 1)]
        self.sides = [level_sides(*pair) for pair in zip(scales, scales[1:], ratios)]

    @property
    def num_levels(self) -> int:
        """Number of maps."""
        return len(self.sides)

    @property
    def num_base_priors(self) -> list[int]:
        """Anchors of a cell of each level."""
        return [len(sides) for sides in self.sides]

    def grid_priors(
        self, featmap_sizes: Sequence[tuple[int, int]], dtype: torch.dtype | None = None, device: torch.device | str = 'cpu'
    ) -> list[Tensor]:
        """Corners (x1, y1, x2, y2) of all anchors of each level, in fractions of the image.

        Args:
            featmap_sizes: (H, W) of each level.
            dtype: without effect, as mmdet gives the scores'; the anchors are float32, since half precision would move them.

        Shape:
            One `(H * W * A, 4)` per level; cells by rows, in each the anchors in the order above.
        """
        return [corners(centred(size, sides, device)) for size, sides in zip(featmap_sizes, self.sides, strict=True)]


def level_sides(scale: float, following: float, ratios: Sequence[float]) -> list[tuple[float, float]]:
    """(width, height) of a cell's anchors, in fractions of the image."""
    middle = (scale * following) ** 0.5
    sides = [(scale, scale), (middle, middle)]
    for root in (ratio**0.5 for ratio in ratios):
        sides += [(scale * root, scale / root), (scale / root, scale * root)]
    return [(min(width, 1.0), min(height, 1.0)) for width, height in sides]


def centred(size: tuple[int, int], sides: list[tuple[float, float]], device: torch.device | str) -> Tensor:
    """Anchors of an (H, W) grid as (cx, cy, width, height), `(H * W * A, 4)`."""
    cy, cx = ((torch.arange(n, device=device) + 0.5) / n for n in size)
    cells = torch.stack(torch.meshgrid(cx, cy, indexing='xy'), -1).reshape(-1, 1, 2)
    shapes = torch.tensor(sides, device=device).expand(len(cells), -1, -1)
    return torch.cat((cells.expand(-1, len(sides), -1), shapes), 2).flatten(0, 1)


def corners(boxes: Tensor) -> Tensor:
    """(cx, cy, width, height) to (x1, y1, x2, y2), `(..., 4)`."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), -1)

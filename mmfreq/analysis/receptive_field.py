"""The effective receptive field: from which pixels the middle of a feature map takes its values.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016, arXiv 1701.04128, by
the protocol of Ding et al., "Scaling Up Your Kernels to 31x31" (RepLKNet), CVPR 2022, arXiv 2203.06717: the gradient of
the sum of the rectified channels at the map's middle, rectified, summed over the colours and over the pictures. The table says
which share of the picture's area the smallest square takes that holds a share of that contribution. Ours differs in: the square
lies around the contribution's own middle, not the picture's; with strides the two are up to half a cell apart.

Legend: H W pixels, h w feature map.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mmfreq.models._base import FrequencyBackbone

SHARES = (0.2, 0.5, 0.8, 0.99)


@dataclass(frozen=True)
class ReceptiveField:
    """What each pixel contributes, `(H, W)`, with sum 1."""

    contribution: np.ndarray

    @property
    def centre(self) -> tuple[float, float]:
        """(row, column) with half of the contribution on either side; between two pixels where that is so."""
        return tuple(_median(self.contribution.sum(axis)) for axis in (1, 0))

    def squares(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All squares around the centre, cut at the picture's borders, from small to large: side, area, contribution.

        Sides are in pixels, areas in shares of the picture's, contributions in shares of the whole.
        """
        rows, columns = (np.abs(np.arange(n) - middle) for n, middle in zip(self.contribution.shape, self.centre))
        reach = np.maximum(rows[:, None], columns)
        reaches, ring = np.unique(reach, return_inverse=True)
        ring = ring.ravel()
        area = np.cumsum(np.bincount(ring)) / reach.size
        inside = np.cumsum(np.bincount(ring, self.contribution.ravel()))
        return 2 * reaches + 1, area, inside / inside[-1]

    def smallest_square(self, share: float) -> tuple[float, float]:
        """(side in pixels, share of the picture's area) of the smallest square that holds `share` of the contribution."""
        side, area, inside = self.squares()
        at = int(np.searchsorted(inside, share - 1e-9))
        return float(side[at]), float(area[at])


def receptive_field(features: Callable[[Tensor], Tensor], pictures: Tensor) -> ReceptiveField:
    """The effective receptive field of the middle cell `(h // 2, w // 2)` of a feature map.

    Args:
        features: from `(1, 3, H, W)` to `(1, C, h, w)`.
        pictures: `(N, 3, H, W)`, one after the other.

    Raises:
        ValueError: no pixel contributes.
    """
    total = torch.zeros(pictures.shape[-2:], dtype=torch.float64)
    for picture in pictures.split(1):
        with torch.enable_grad():
            picture = picture.detach().requires_grad_()
            y = features(picture)
            middle = y[..., y.shape[-2] // 2, y.shape[-1] // 2].relu().sum()
            (gradient,) = torch.autograd.grad(middle, picture)
        total += gradient.relu().sum((0, 1)).double().cpu()
    if not (total.isfinite().all() and total.sum() > 0):
        raise ValueError('no pixel contributes to the middle of the feature map, or some without bounds; try other weights')
    return ReceptiveField((total / total.sum()).numpy())


def feature_map(backbone: nn.Module, stage: int = -1) -> Callable[[Tensor], Tensor]:
    """The function from images to the raw map of one stage; of a backbone of another library, to one of its outputs.

    Raises:
        ValueError: no such stage.
    """
    run = backbone.forward_stages if isinstance(backbone, FrequencyBackbone) else backbone

    def features(images: Tensor) -> Tensor:
        maps = run(images)
        maps = (maps,) if isinstance(maps, Tensor) else maps
        if not -len(maps) <= stage < len(maps):
            raise ValueError(f'{type(backbone).__name__} has {len(maps)} stages, 0 to {len(maps) - 1}; got stage {stage}')
        return maps[stage]

    return features


def _median(weights: np.ndarray) -> float:
    below = np.cumsum(weights) / weights.sum()
    return (np.searchsorted(below, 0.5 - 1e-9) + np.searchsorted(below, 0.5 + 1e-9)) / 2

"""The effective receptive field: how much each pixel of the input contributes to the center of a feature map.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016, arXiv 1701.04128, by
the protocol of Ding et al., "Scaling Up Your Kernels to 31x31" (RepLKNet), CVPR 2022, arXiv 2203.06717: the gradient of the sum of
the rectified channels at the map's center, rectified, summed over the input channels and over the images. The reported number is
the area of the smallest square that contains a given share of that contribution, relative to the image. One difference: the square
lies around the center of the contribution, not of the image; with strides the two are up to half a cell of the map apart.

Legend: H W pixels, h w feature map.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from mmfreq.analysis.plot_style import LINES, MAGNITUDE, NORMAL, SMALL, add_color_bar, new_figure, wrapped
from mmfreq.models._base import FrequencyBackbone

SHARES = (0.2, 0.5, 0.8, 0.99)  # of the contribution
MIN_DRAWN = 1e-4  # relative to the largest contribution; smaller ones get the same color
MAX_SIDE = 60  # of a drawn map; larger ones are averaged over squares of pixels
MAPS_PER_ROW = 4


@dataclass(frozen=True)
class ReceptiveField:
    """The contribution of each pixel, `(H, W)`, with sum 1."""

    contribution: np.ndarray

    @property
    def center(self) -> tuple[float, float]:
        """(row, column) with half of the contribution on either side; it may lie between two pixels."""
        return tuple(_median(self.contribution.sum(axis)) for axis in (1, 0))

    def squares(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All squares around the center, clipped to the image, in ascending order: side, area, contribution inside.

        Sides are in pixels, areas relative to the image, contributions relative to the sum.
        """
        rows, columns = (np.abs(np.arange(n) - middle) for n, middle in zip(self.contribution.shape, self.center))
        distance = np.maximum(rows[:, None], columns)
        distances, ring = np.unique(distance, return_inverse=True)
        ring = ring.ravel()
        area = np.cumsum(np.bincount(ring)) / distance.size
        inside = np.cumsum(np.bincount(ring, self.contribution.ravel()))
        return 2 * distances + 1, area, inside / inside[-1]

    def smallest_square(self, share: float) -> tuple[float, float]:
        """(side in pixels, area relative to the image) of the smallest square that contains `share` of the contribution."""
        side, area, inside = self.squares()
        index = int(np.searchsorted(inside, share - 1e-9))
        return float(side[index]), float(area[index])


def receptive_field(features: Callable[[Tensor], Tensor], images: Tensor) -> ReceptiveField:
    """The effective receptive field of the center `(h // 2, w // 2)` of a feature map.

    Args:
        features: from `(1, C_in, H, W)` to `(1, C, h, w)`.
        images: `(N, C_in, H, W)`, processed one by one.

    Raises:
        ValueError: no pixel contributes, or a gradient is not finite.
    """
    total = torch.zeros(images.shape[-2:], dtype=torch.float64)
    for image in images.split(1):
        with torch.enable_grad():
            image = image.detach().requires_grad_()
            y = features(image)
            center = y[..., y.shape[-2] // 2, y.shape[-1] // 2].relu().sum()
            (gradient,) = torch.autograd.grad(center, image)
        total += gradient.relu().sum((0, 1)).double().cpu()
    if not (total.isfinite().all() and total.sum() > 0):
        raise ValueError('There is no pixel with a finite contribution to the center of the feature map. Try other weights.')
    return ReceptiveField((total / total.sum()).numpy())


def feature_map(backbone: nn.Module, stage: int = -1) -> Callable[[Tensor], Tensor]:
    """The function from images to the raw map of one stage; for a backbone of another library, to one of its outputs.

    Raises (the function):
        ValueError: there is no such stage.
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


def plot_receptive_fields(fields: Mapping[str, ReceptiveField], title: str) -> Figure:
    """A map for each model, titled with its name, with the squares that contain `SHARES`; below, a curve for each model."""
    rows, columns = -(-len(fields) // MAPS_PER_ROW), min(len(fields), MAPS_PER_ROW)
    figure = new_figure(0.6 + 2.5 * rows + 2.6, title)
    maps, curves = figure.subfigures(2, 1, height_ratios=(2.5 * rows, 2.6))
    axes = maps.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(fields) :]:
        axis.set_axis_off()
    block = max(-(-max(field.contribution.shape) // MAX_SIDE) for field in fields.values())
    for axis, (name, field) in zip(axes.flat, fields.items()):
        values, (height, width) = block_means(field.contribution, block), field.contribution.shape
        image = axis.imshow(
            np.maximum(values / values.max(), MIN_DRAWN),
            cmap=MAGNITUDE,
            norm=LogNorm(MIN_DRAWN, 1),
            interpolation='nearest',
            extent=(-0.5, values.shape[1] * block - 0.5, values.shape[0] * block - 0.5, -0.5),
        )
        for share in SHARES:
            side, _ = field.smallest_square(share)
            row, column = field.center
            corner = (column - side / 2, row - side / 2)
            axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor='white', linewidth=1.2, clip_on=True))
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axis.set_title(wrapped(name, 24), fontsize=NORMAL)
        axis.tick_params(labelsize=SMALL, length=2)
        axis.locator_params(nbins=4, integer=True)
    axes[-1, 0].set_xlabel('pixels', fontsize=SMALL)
    unit = f'mean of {block} x {block} pixels' if block > 1 else 'of each pixel'
    add_color_bar(maps, image, axes.flat, f'contribution,\n{unit},\nlargest = 1', aspect=18)
    _draw_curves(curves.subplots(), fields)
    return figure


def block_means(values: np.ndarray, side: int) -> np.ndarray:
    """Means over squares of a map `(H, W)`; the squares at the lower and right borders may be smaller."""
    starts = [np.arange(0, n, side) for n in values.shape]
    sums, counts = (np.add.reduceat(np.add.reduceat(t, starts[0], 0), starts[1], 1) for t in (values, np.ones_like(values)))
    return sums / counts


def _draw_curves(axis: Axes, fields: Mapping[str, ReceptiveField]) -> None:
    for number, (name, field) in enumerate(fields.items()):
        _, area, inside = field.squares()
        axis.plot(100 * area, 100 * inside, color=LINES[number % len(LINES)], linewidth=1.8, label=name)
    for share in SHARES:
        axis.axhline(100 * share, color='0.6', linewidth=0.8, linestyle=':')
    axis.set(xlim=(0, 100), ylim=(0, 101), yticks=[0, *(100 * share for share in SHARES)])
    axis.yaxis.set_major_formatter('{x:g}')
    axis.set_xlabel('area of the square around the center, % of the image', fontsize=NORMAL)
    axis.set_ylabel('contribution inside, %', fontsize=NORMAL)
    axis.tick_params(labelsize=SMALL)
    axis.grid(axis='x', alpha=0.25)
    axis.legend(fontsize=NORMAL, frameon=False, loc='lower right')

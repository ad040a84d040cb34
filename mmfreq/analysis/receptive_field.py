"""The effective receptive field: from which pixels the middle of a feature map takes its values.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016, arXiv 1701.04128, by
the protocol of Ding et al., "Scaling Up Your Kernels to 31x31" (RepLKNet), CVPR 2022, arXiv 2203.06717: the gradient of
the sum of the rectified channels at the map's middle, rectified, summed over the colours and over the pictures. The table says
which share of the picture's area the smallest square takes that holds a share of that contribution. Ours differs in: the square
lies around the contribution's own middle, not the picture's; with strides the two are up to half a cell apart.

Legend: H W pixels, h w feature map.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from mmfreq.analysis.plot_style import LINES, MAGNITUDE, NORMAL, SMALL, add_colour_bar, new_figure, wrapped
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


# Effective receptive fields of several models side by side, and how their contributions grow with the square around them.


FLOOR = 1e-4  # of the largest contribution; what is below is drawn alike
CELLS = 60  # at most this many along a side; of larger pictures squares of pixels are averaged
PER_ROW = 4


def plot_receptive_fields(fields: Mapping[str, ReceptiveField], title: str, shares: Sequence[float] = SHARES) -> Figure:
    """A map for each model, by its name, with the squares that hold `shares`; below them one curve for each."""
    rows, columns = -(-len(fields) // PER_ROW), min(len(fields), PER_ROW)
    figure = new_figure(0.6 + 2.5 * rows + 2.6, title)
    maps, curves = figure.subfigures(2, 1, height_ratios=(2.5 * rows, 2.6))
    axes = maps.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(fields) :]:
        axis.set_axis_off()
    cell = max(-(-max(field.contribution.shape) // CELLS) for field in fields.values())
    for axis, (name, field) in zip(axes.flat, fields.items()):
        values, (height, width) = block_means(field.contribution, cell), field.contribution.shape
        image = axis.imshow(
            np.maximum(values / values.max(), FLOOR),
            cmap=MAGNITUDE,
            norm=LogNorm(FLOOR, 1),
            interpolation='nearest',
            extent=(-0.5, values.shape[1] * cell - 0.5, values.shape[0] * cell - 0.5, -0.5),
        )
        for share in shares:
            _outline(axis, field, share)
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axis.set_title(wrapped(name, 24), fontsize=NORMAL)
        axis.tick_params(labelsize=SMALL, length=2)
        axis.locator_params(nbins=4, integer=True)
    axes[-1, 0].set_xlabel('pixels', fontsize=SMALL)
    unit = f'mean of {cell} x {cell} pixels' if cell > 1 else 'of each pixel'
    add_colour_bar(maps, image, axes.flat, f'contribution,\n{unit},\nlargest = 1', aspect=18)
    _draw_curves(curves.subplots(), fields, shares)
    return figure


def block_means(values: np.ndarray, side: int) -> np.ndarray:
    """Means over squares of a map `(H, W)`, at its far borders over what there is of them."""
    starts = [np.arange(0, n, side) for n in values.shape]
    sums, counts = (np.add.reduceat(np.add.reduceat(t, starts[0], 0), starts[1], 1) for t in (values, np.ones_like(values)))
    return sums / counts


def _outline(axis: Axes, field: ReceptiveField, share: float) -> None:
    side, _ = field.smallest_square(share)
    row, column = field.centre
    corner = (column - side / 2, row - side / 2)
    axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor='white', linewidth=1.2, clip_on=True))


def _draw_curves(axis: Axes, fields: Mapping[str, ReceptiveField], shares: Sequence[float]) -> None:
    for number, (name, field) in enumerate(fields.items()):
        _, area, inside = field.squares()
        axis.plot(100 * area, 100 * inside, color=LINES[number % len(LINES)], linewidth=1.8, label=name)
    for share in shares:
        axis.axhline(100 * share, color='0.6', linewidth=0.8, linestyle=':')
    axis.set(xlim=(0, 100), ylim=(0, 101), yticks=[0, *(100 * share for share in shares)])
    axis.yaxis.set_major_formatter('{x:g}')
    axis.set_xlabel('area of the square around the centre, % of the picture', fontsize=NORMAL)
    axis.set_ylabel('contribution inside, %', fontsize=NORMAL)
    axis.tick_params(labelsize=SMALL)
    axis.grid(axis='x', alpha=0.25)
    axis.legend(fontsize=NORMAL, frameon=False, loc='lower right')

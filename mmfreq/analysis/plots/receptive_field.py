"""Effective receptive fields of several models side by side, and how their contributions grow with the square around them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmfreq.analysis.colours import LINES
from mmfreq.analysis.plots.style import MAGNITUDE, NORMAL, SMALL, add_colour_bar, new_figure, wrapped
from mmfreq.analysis.receptive_field import SHARES, ReceptiveField

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

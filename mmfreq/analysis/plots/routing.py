"""How a dynamic filter is mixed for a picture: the stored filters, their coefficients, and what some channels get."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmfreq.analysis.colours import LINES
from mmfreq.analysis.plots.style import MAGNITUDE, NORMAL, SMALL, add_colour_bar, draw_map, draw_picture, new_figure
from mmfreq.analysis.routing import Routing


def plot_routing(routing: Routing, picture: np.ndarray, title: str) -> Figure:
    """A column for each stored filter: its gain, its coefficients over the channels, the channel that leans on it most.

    Shape: picture (H, W, 3) uint8 RGB.
    """
    coefficients, typical = routing.coefficients, routing.typical_channels
    count, channels = coefficients.shape
    basis, mixed = routing.basis.gain, routing.mixed(typical).gain
    figure = new_figure(6.9, title)
    axes = figure.subplots(3, count + 1, squeeze=False)
    draw_picture(axes[0, 0], picture)
    _draw_means(axes[1, 0], coefficients)
    axes[2, 0].set_axis_off()
    scale = (MAGNITUDE, 0, max(basis.max(), mixed.max()) or 1.0)
    limits = (0.95 * min(coefficients.min(), 1 / count), 1.05 * max(coefficients.max(), 1 / count))
    for k, (top, middle, bottom) in enumerate(axes[:, 1:].T):
        image = draw_map(top, basis[k], *scale, centred=True)
        top.set_title(f'stored filter {k}', fontsize=NORMAL)
        middle.plot(np.sort(coefficients[k])[::-1], color=LINES[k % len(LINES)], linewidth=1.8)
        middle.axhline(1 / count, color='0.4', linewidth=1, linestyle='--')
        middle.set(ylim=limits, xlim=(0, channels - 1))
        middle.set_title(f'coefficients of {k}', fontsize=NORMAL)
        middle.grid(alpha=0.25)
        middle.tick_params(labelsize=SMALL)
        middle.locator_params(axis='x', nbins=3)
        draw_map(bottom, mixed[k], *scale, centred=True)
        bottom.set_title(f'channel {typical[k]}\n{coefficients[k, typical[k]]:.2f} of filter {k}', fontsize=NORMAL)
        if k:
            for axis in (top, middle, bottom):
                axis.set_yticklabels([])
    for axis in axes[(0, 2), 1]:
        axis.set_ylabel('vertical,\ncycles per map', fontsize=SMALL)
    axes[1, 1].set_ylabel('coefficient\n(dashed: all alike)', fontsize=SMALL)
    units = ('horizontal, cycles per map', f'the {channels} channels, from the largest', 'horizontal, cycles per map')
    for row, unit in zip(axes, units):
        row[1 + count // 2].set_xlabel(unit, fontsize=SMALL)
    add_colour_bar(figure, image, axes[0], 'gain')
    add_colour_bar(figure, image, axes[2], 'gain of the mixture')
    return figure


def _draw_means(axis: Axes, coefficients: np.ndarray) -> None:
    count = len(coefficients)
    axis.barh(range(count), coefficients.mean(1), color=[LINES[k % len(LINES)] for k in range(count)])
    axis.axvline(1 / count, color='0.4', linewidth=1, linestyle='--')
    axis.set(yticks=range(count), ylabel='stored filter')
    axis.invert_yaxis()
    axis.set_title('mean coefficient', fontsize=NORMAL)
    axis.tick_params(labelsize=SMALL)

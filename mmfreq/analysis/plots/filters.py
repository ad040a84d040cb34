"""Gain, phase and kernel of a layer's filters, and what all of them have in common."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmfreq.analysis.colours import LINES
from mmfreq.analysis.filters import LearnedFilters, radial_gain
from mmfreq.analysis.plots.style import (
    CYCLIC,
    MAGNITUDE,
    NORMAL,
    SIGNED,
    SMALL,
    add_colour_bar,
    draw_map,
    new_figure,
)

FAINT = 0.02  # of the largest gain; below it a phase says nothing
KERNEL_SIDE = 31  # positions; of larger kernels the middle is drawn
UNITS = ('cycles per map', 'cycles per map', 'positions')  # of the axes, by row


def plot_filters(filters: LearnedFilters, chosen: Sequence[int], title: str) -> Figure:
    """The filters numbered `chosen`, a column each on common scales, beside a column for all filters of the layer."""
    gain, kernel = filters.gain, cropped(filters.kernel, KERNEL_SIDE)
    phase = np.where(gain > FAINT * gain.max(), np.angle(filters.response), np.nan)
    figure = new_figure(5.9, title)
    axes = figure.subplots(3, len(chosen) + 1, squeeze=False)
    largest = np.abs(kernel[list(chosen)]).max() or 1.0
    rows = (
        ('gain', gain, (MAGNITUDE, 0, gain[list(chosen)].max() or 1.0)),
        (f'phase, rad\n(hatched: gain\nbelow {FAINT:.0%} of max)', phase, (CYCLIC, -np.pi, np.pi)),
        ('kernel', kernel, (SIGNED, -largest, largest)),
    )
    for row, (label, values, scale) in zip(axes, rows):
        image = [draw_map(axis, values[number], *scale, centred=True) for axis, number in zip(row[1:], chosen)][-1]
        add_colour_bar(figure, image, row[1:], label)
        for axis in row[2:]:
            axis.set_yticklabels([])
    figure.axes[-2].set_yticks([-np.pi, 0, np.pi], ['-π', '0', 'π'])  # the colour bar of the second row
    for axis, number in zip(axes[0, 1:], chosen):
        axis.set_title(f'filter {number}', fontsize=NORMAL)
    _draw_mean(axes[0, 0], gain.mean(0), f'mean gain of all {len(gain)}')
    _draw_profile(axes[1, 0], gain)
    _draw_mean(axes[2, 0], np.sqrt((kernel**2).mean(0)), f'rms kernel of all {len(gain)}')
    for row, unit in zip(axes, UNITS):
        row[1].set_ylabel(f'vertical,\n{unit}', fontsize=SMALL)
        row[1 + len(chosen) // 2].set_xlabel(f'horizontal, {unit}', fontsize=SMALL)
    return figure


def cropped(values: np.ndarray, side: int) -> np.ndarray:
    """At most `side` (odd) rows and columns around the origin of centred maps `(..., h, w)`."""
    rows, columns = (slice(max(n // 2 - side // 2, 0), n // 2 + side // 2 + 1) for n in values.shape[-2:])
    return values[..., rows, columns]


def _draw_mean(axis: Axes, values: np.ndarray, title: str) -> None:
    """On a scale of its own, which the title tells."""
    draw_map(axis, values, MAGNITUDE, 0, values.max() or 1.0, centred=True)
    axis.set_title(f'{title},\n0 to {values.max():.2g}', fontsize=NORMAL)


def _draw_profile(axis: Axes, gain: np.ndarray) -> None:
    """Median gain against frequency, with the band that holds 80 % of the filters."""
    frequency, rings = radial_gain(gain)
    low, middle, high = np.percentile(rings, (10, 50, 90), axis=0)
    axis.fill_between(frequency, low, high, color=LINES[0], alpha=0.25, linewidth=0, label='10-90 %')
    axis.plot(frequency, middle, color=LINES[0], linewidth=1.8, label='median')
    axis.set(xlim=(0, frequency[-1] or 1), ylim=(0, None))
    axis.set_box_aspect(1)
    axis.set_title('gain against frequency', fontsize=NORMAL)
    axis.set_xlabel('cycles per position', fontsize=SMALL)
    axis.tick_params(labelsize=SMALL)
    axis.legend(fontsize=SMALL - 1, frameon=False, handlelength=1)
    axis.grid(alpha=0.25)

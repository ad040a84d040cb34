"""Gain, phase and kernel of a layer's filters, and what all of them have in common."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from mmfreq.analysis.learned_filters import (
    Choice,
    GatingMaps,
    LearnedFilters,
    Routing,
    SpectralMask,
    gating_maps,
    learned_filters,
    masks_over,
    radial_gain,
    routing_over,
)
from mmfreq.analysis.plot_style import (
    CYCLIC,
    LINES,
    MAGNITUDE,
    NORMAL,
    SIGNED,
    SMALL,
    WIDTH,
    add_colour_bar,
    draw_map,
    draw_picture,
    new_figure,
    new_rows,
    save,
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


# The gated products of gnConvs over a picture: a row for each layer, a column for each order.


def plot_gating(layers: Sequence[GatingMaps], picture: np.ndarray, title: str) -> Figure:
    """Each map on a scale from 0 to its own largest value, which is told above it.

    Shape: picture (H, W, 3) uint8 RGB.
    """
    columns = 1 + max(len(layer.maps) for layer in layers)
    names = [f'{layer.name}, {" x ".join(map(str, layer.maps[0].shape))} map' for layer in layers]
    side = (WIDTH / columns - 0.25) * picture.shape[0] / picture.shape[1]
    figure, rows = new_rows(names, side, title)
    for row, layer in zip(rows, layers):
        axes = row.subplots(1, columns)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
        draw_picture(axes[0], picture)
        for order, (axis, values) in enumerate(zip(axes[1:], layer.maps), 1):
            image = draw_map(axis, values / (values.max() or 1.0), MAGNITUDE, 0, 1, ticks=False)
            axis.set_title(f'order {order}, to {values.max():.2g}', fontsize=NORMAL)
        for axis in axes[1 + len(layer.maps) :]:
            axis.set_axis_off()
        add_colour_bar(row, image, axes, 'rms over channels,\nlargest = 1')
    return figure


# The masks of adaptive frequency filters over a picture: a row for each layer.


PICTURE_WIDTH = 1.35  # inches
DARKEST = 1  # percentile of the spectrum that is drawn darkest


def plot_masks(masks: Sequence[SpectralMask], picture: np.ndarray, title: str) -> Figure:
    """The spectrum of the map, its mask, and where the soft-shrink has left the mask open.

    Shape: picture (H, W, 3) uint8 RGB.
    """
    aspect = max(image.shape[0] / image.shape[1] for image in (picture, *(mask.mask[0] for mask in masks)))
    figure, rows = new_rows([mask.name for mask in masks], 0.2 + PICTURE_WIDTH * aspect, title)
    for row, mask in zip(rows, masks):
        axes = row.subplots(1, 4)
        draw_picture(axes[0], picture)
        spectrum = np.log10(np.maximum(np.sqrt((mask.spectrum**2).mean(0)), 1e-12))
        size, opened = mask.mask.mean(0), (mask.mask > 0).mean(0)
        parts = (
            ('spectrum', 'log10 of the rms', spectrum, np.percentile(spectrum, DARKEST), spectrum.max()),
            ('mask', 'mean magnitude', size, 0, size.max() or 1.0),
            ('where it is not 0', 'share of channels', opened, 0, 1),
        )
        for axis, (name, unit, values, low, high) in zip(axes[1:], parts):
            image = draw_map(axis, values, MAGNITUDE, low, high, centred=True)
            axis.set_title(name, fontsize=NORMAL)
            axis.set_xlabel('horizontal, cycles per map', fontsize=SMALL)
            add_colour_bar(row, image, [axis], unit, fraction=0.08)
        axes[1].set_ylabel('vertical,\ncycles per map', fontsize=SMALL)
    return figure


# How a dynamic filter is mixed for a picture: the stored filters, their coefficients, and what some channels get.


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


# Pictures of what the layers of a model have learned, and of what they do with a picture, as files.


@dataclass(frozen=True)
class View:
    """What is looked at, and how.

    Attributes:
        label: of the model, the first line of each title.
        run: the model on the picture; called once for each kind that needs it.
        picture: `(H, W, 3)` uint8 RGB, drawn beside the maps.
        filters: how many stored filters of each layer, those with the largest gain.
        size: (H, W) of the maps that stored filters act on; None is the stored grid.
    """

    label: str
    run: Callable[[], Any]
    picture: np.ndarray
    filters: int = 5
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Drawn:
    """A file, what it shows in words, and the layers in it."""

    path: Path
    what: str
    layers: tuple[str, ...]


Layers = Mapping[str, nn.Module]
Plots = Iterator[tuple[str, str, tuple[str, ...], Figure]]  # stem of the file, and as in `Drawn`


def draw_layers(choices: Mapping[str, Choice], view: View, out: str | Path) -> tuple[list[Drawn], list[str]]:
    """Draw the layers chosen by `choose_layers` into the folder `out`.

    Returns:
        What was drawn, and the names of layers that could not be: the model did not call them.

    Raises:
        ValueError: fewer than one filter is asked for.
    """
    if view.filters < 1:
        raise ValueError(f'{view.filters} filters of each layer are asked for; it must be at least 1')
    drawn, missed = [], []
    for kind, choice in choices.items():
        found = [Drawn(save(plot, Path(out) / f'{stem}.png'), *rest) for stem, *rest, plot in DRAWERS[kind](choice.layers, view)]
        seen = {name for file in found for name in file.layers}
        missed += [name for name in choice.layers if name not in seen]
        drawn += found
    return drawn, missed


def _filters(layers: Layers, view: View) -> Plots:
    for name, layer in layers.items():
        found = learned_filters(layer, name, view.size)
        chosen = found.strongest(view.filters)
        grid = ' x '.join(map(str, found.gain.shape[1:]))
        title = f'{view.label}\n{name}: the {len(chosen)} strongest of {len(found.gain)} filters, on a {grid} grid'
        yield f'filters_{name}', 'gain, phase and kernel of stored filters', (name,), plot_filters(found, chosen, title)


def _gating(layers: Layers, view: View) -> Plots:
    if found := gating_maps(view.run, layers):
        what = 'gated products of gnConv, by order'
        names = tuple(maps.name for maps in found)
        yield 'gating', what, names, plot_gating(found, view.picture, f'{view.label}\n{what}')


def _routing(layers: Layers, view: View) -> Plots:
    for routing in routing_over(view.run, layers):
        name, what = routing.name, 'dynamic filters mixed for the picture'
        yield f'routing_{name}', what, (name,), plot_routing(routing, view.picture, f'{view.label}\n{name}: {what}')


def _masks(layers: Layers, view: View) -> Plots:
    if found := masks_over(view.run, layers):
        what = 'masks of adaptive frequency filters'
        names = tuple(mask.name for mask in found)
        yield 'masks', what, names, plot_masks(found, view.picture, f'{view.label}\n{what}')


DRAWERS: dict[str, Callable[[Layers, View], Plots]] = {
    'filters': _filters,
    'gating': _gating,
    'routing': _routing,
    'masks': _masks,
}

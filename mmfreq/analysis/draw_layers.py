"""Draws the arrays of `learned_filters` and saves the figures: filters, gating maps, routing and masks of a model's layers.

Shape: drawn images `(H, W, 3)` uint8 RGB.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from mmfreq.analysis.learned_filters import (
    ChosenLayers,
    GatingMaps,
    LearnedFilters,
    Routing,
    SpectralMask,
    gating_maps,
    learned_filters,
    radial_gain,
    routings,
    spectral_masks,
)
from mmfreq.analysis.plot_style import (
    CYCLIC,
    LINES,
    MAGNITUDE,
    NORMAL,
    SIGNED,
    SMALL,
    WIDTH,
    add_color_bar,
    draw_input,
    draw_map,
    new_figure,
    new_rows,
    save,
)

DESCRIPTIONS = {  # of the figures of each plot
    'filters': 'gain, phase and kernel of stored filters',
    'gating': 'gated products of gnConv, by order',
    'routing': 'dynamic filters mixed for the image',
    'masks': 'masks of adaptive frequency filters',
}
MIN_GAIN = 0.02  # relative to the largest gain; the phase below it is not drawn
KERNEL_SIDE = 31  # positions; larger kernels are cropped to their center
UNITS = ('cycles per map', 'cycles per map', 'positions')  # of the axes of `plot_filters`, by row
MASK_WIDTH = 1.35  # inches
DARKEST = 1  # percentile of the spectrum at the lower end of the color map


@dataclass(frozen=True)
class DrawSettings:
    """What `draw_layers` needs besides the layers.

    Attributes:
        label: of the model, the first line of each title.
        run: runs the model on the image.
        image: drawn beside the maps.
        filters: number of stored filters to draw of each layer, those with the largest gain.
        size: (H, W) of the maps that stored filters are resized for; None is the stored grid.
    """

    label: str
    run: Callable[[], Any]
    image: np.ndarray
    filters: int = 5
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class DrawnFile:
    """A file, a description of its content, and the names of the layers in it."""

    path: Path
    description: str
    layers: tuple[str, ...]


def draw_layers(chosen: Mapping[str, ChosenLayers], settings: DrawSettings, out: str | Path) -> tuple[list[DrawnFile], list[str]]:
    """Draw the layers chosen by `choose_layers` into the folder `out`.

    Returns:
        The files, and the names of the layers that could not be drawn because the model did not call them.

    Raises:
        ValueError: fewer than one filter is requested.
    """
    if settings.filters < 1:
        raise ValueError(f'The number of filters of each layer must be at least 1, got {settings.filters}.')
    files, missing = [], []
    for plot, choice in chosen.items():
        drawn: set[str] = set()
        for stem, names, figure in _figures(plot, choice.layers, settings):
            files.append(DrawnFile(save(figure, Path(out) / f'{stem}.png'), DESCRIPTIONS[plot], names))
            drawn.update(names)
        missing += [name for name in choice.layers if name not in drawn]
    return files, missing


def _figures(plot: str, layers: Mapping[str, nn.Module], settings: DrawSettings) -> Iterator[tuple[str, tuple[str, ...], Figure]]:
    """File stem, names of layers and figure for each figure of a plot: one for each layer, or one for all."""
    title, image = f'{settings.label}\n{DESCRIPTIONS[plot]}', settings.image
    if plot == 'filters':
        for name, layer in layers.items():
            filters = learned_filters(layer, name, settings.size)
            strongest = filters.strongest(settings.filters)
            yield f'filters_{name}', (name,), plot_filters(filters, strongest, settings.label)
    elif plot == 'gating' and (gating := gating_maps(settings.run, layers)):
        yield 'gating', tuple(maps.name for maps in gating), plot_gating(gating, image, title)
    elif plot == 'routing':
        for routing in routings(settings.run, layers):
            title = f'{settings.label}\n{routing.name}: {DESCRIPTIONS[plot]}'
            yield f'routing_{routing.name}', (routing.name,), plot_routing(routing, image, title)
    elif plot == 'masks' and (masks := spectral_masks(settings.run, layers)):
        yield 'masks', tuple(mask.name for mask in masks), plot_masks(masks, image, title)


def plot_filters(filters: LearnedFilters, chosen: Sequence[int], label: str) -> Figure:
    """A column for each filter numbered in `chosen`, on common scales, beside a column for all filters of the layer."""
    gain, kernel = filters.gain, cropped(filters.kernel, KERNEL_SIDE)
    phase = np.where(gain > MIN_GAIN * gain.max(), np.angle(filters.response), np.nan)
    grid = ' x '.join(map(str, gain.shape[1:]))
    figure = new_figure(5.9, f'{label}\n{filters.name}: the {len(chosen)} strongest of {len(gain)} filters, on a {grid} grid')
    axes = figure.subplots(3, len(chosen) + 1, squeeze=False)
    largest = np.abs(kernel[list(chosen)]).max() or 1.0
    rows = (
        ('gain', gain, (MAGNITUDE, 0, gain[list(chosen)].max() or 1.0)),
        (f'phase, rad\n(hatched: gain\nbelow {MIN_GAIN:.0%} of max)', phase, (CYCLIC, -np.pi, np.pi)),
        ('kernel', kernel, (SIGNED, -largest, largest)),
    )
    for row, (text, values, scale) in zip(axes, rows):
        image = [draw_map(axis, values[number], *scale, centered=True) for axis, number in zip(row[1:], chosen)][-1]
        add_color_bar(figure, image, row[1:], text)
        for axis in row[2:]:
            axis.set_yticklabels([])
    figure.axes[-2].set_yticks([-np.pi, 0, np.pi], ['-π', '0', 'π'])  # the color bar of the second row
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
    """At most `side` (odd) rows and columns around the origin of centered maps `(..., h, w)`."""
    rows, columns = (slice(max(n // 2 - side // 2, 0), n // 2 + side // 2 + 1) for n in values.shape[-2:])
    return values[..., rows, columns]


def _draw_mean(axis: Axes, values: np.ndarray, title: str) -> None:
    """On its own scale, which is part of the title."""
    draw_map(axis, values, MAGNITUDE, 0, values.max() or 1.0, centered=True)
    axis.set_title(f'{title},\n0 to {values.max():.2g}', fontsize=NORMAL)


def _draw_profile(axis: Axes, gain: np.ndarray) -> None:
    """Median gain over frequency, with the band of 80 % of the filters."""
    frequency, rings = radial_gain(gain)
    low, middle, high = np.percentile(rings, (10, 50, 90), axis=0)
    axis.fill_between(frequency, low, high, color=LINES[0], alpha=0.25, linewidth=0, label='10-90 %')
    axis.plot(frequency, middle, color=LINES[0], linewidth=1.8, label='median')
    axis.set(xlim=(0, frequency[-1] or 1), ylim=(0, None))
    axis.set_box_aspect(1)
    axis.set_title('gain over frequency', fontsize=NORMAL)
    axis.set_xlabel('cycles per position', fontsize=SMALL)
    axis.tick_params(labelsize=SMALL)
    axis.legend(fontsize=SMALL - 1, frameon=False, handlelength=1)
    axis.grid(alpha=0.25)


def plot_gating(layers: Sequence[GatingMaps], image: np.ndarray, title: str) -> Figure:
    """A row for each layer, a column for each order; each map on a scale from 0 to its maximum, which is part of its title."""
    columns = 1 + max(len(layer.maps) for layer in layers)
    names = [f'{layer.name}, {" x ".join(map(str, layer.maps[0].shape))} map' for layer in layers]
    side = (WIDTH / columns - 0.25) * image.shape[0] / image.shape[1]
    figure, rows = new_rows(names, side, title)
    for row, layer in zip(rows, layers):
        axes = row.subplots(1, columns)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
        draw_input(axes[0], image)
        for order, (axis, values) in enumerate(zip(axes[1:], layer.maps), 1):
            drawn = draw_map(axis, values / (values.max() or 1.0), MAGNITUDE, 0, 1, ticks=False)
            axis.set_title(f'order {order}, to {values.max():.2g}', fontsize=NORMAL)
        for axis in axes[1 + len(layer.maps) :]:
            axis.set_axis_off()
        add_color_bar(row, drawn, axes, 'rms over channels,\nlargest = 1')
    return figure


def plot_masks(masks: Sequence[SpectralMask], image: np.ndarray, title: str) -> Figure:
    """A row for each layer: the spectrum of its input, the mask, and where the soft-shrink does not close the mask."""
    aspect = max(shape[0] / shape[1] for shape in (image.shape, *(mask.mask.shape[1:] for mask in masks)))
    figure, rows = new_rows([mask.name for mask in masks], 0.2 + MASK_WIDTH * aspect, title)
    for row, mask in zip(rows, masks):
        axes = row.subplots(1, 4)
        draw_input(axes[0], image)
        spectrum = np.log10(np.maximum(np.sqrt((mask.spectrum**2).mean(0)), 1e-12))
        magnitude, opened = mask.mask.mean(0), (mask.mask > 0).mean(0)
        parts = (
            ('spectrum', 'log10 of the rms', spectrum, np.percentile(spectrum, DARKEST), spectrum.max()),
            ('mask', 'mean magnitude', magnitude, 0, magnitude.max() or 1.0),
            ('mask not 0', 'share of channels', opened, 0, 1),
        )
        for axis, (name, unit, values, low, high) in zip(axes[1:], parts):
            drawn = draw_map(axis, values, MAGNITUDE, low, high, centered=True)
            axis.set_title(name, fontsize=NORMAL)
            axis.set_xlabel('horizontal, cycles per map', fontsize=SMALL)
            add_color_bar(row, drawn, [axis], unit, fraction=0.08)
        axes[1].set_ylabel('vertical,\ncycles per map', fontsize=SMALL)
    return figure


def plot_routing(routing: Routing, image: np.ndarray, title: str) -> Figure:
    """A column for each stored filter: its gain, its coefficients over the channels, the channel with its largest coefficient."""
    coefficients, typical = routing.coefficients, routing.typical_channels
    count, channels = coefficients.shape
    basis, mixed = routing.basis.gain, routing.mixed(typical).gain
    figure = new_figure(6.9, title)
    axes = figure.subplots(3, count + 1, squeeze=False)
    draw_input(axes[0, 0], image)
    _draw_mean_coefficients(axes[1, 0], coefficients)
    axes[2, 0].set_axis_off()
    scale = (MAGNITUDE, 0, max(basis.max(), mixed.max()) or 1.0)
    limits = (0.95 * min(coefficients.min(), 1 / count), 1.05 * max(coefficients.max(), 1 / count))
    for k, (top, middle, bottom) in enumerate(axes[:, 1:].T):
        drawn = draw_map(top, basis[k], *scale, centered=True)
        top.set_title(f'stored filter {k}', fontsize=NORMAL)
        middle.plot(np.sort(coefficients[k])[::-1], color=LINES[k % len(LINES)], linewidth=1.8)
        middle.axhline(1 / count, color='0.4', linewidth=1, linestyle='--')
        middle.set(ylim=limits, xlim=(0, channels - 1))
        middle.set_title(f'coefficients of {k}', fontsize=NORMAL)
        middle.grid(alpha=0.25)
        middle.tick_params(labelsize=SMALL)
        middle.locator_params(axis='x', nbins=3)
        draw_map(bottom, mixed[k], *scale, centered=True)
        bottom.set_title(f'channel {typical[k]}\n{coefficients[k, typical[k]]:.2f} of filter {k}', fontsize=NORMAL)
        if k:
            for axis in (top, middle, bottom):
                axis.set_yticklabels([])
    for axis in axes[(0, 2), 1]:
        axis.set_ylabel('vertical,\ncycles per map', fontsize=SMALL)
    axes[1, 1].set_ylabel('coefficient\n(dashed: uniform)', fontsize=SMALL)
    units = ('horizontal, cycles per map', f'the {channels} channels, sorted', 'horizontal, cycles per map')
    for row, unit in zip(axes, units):
        row[1 + count // 2].set_xlabel(unit, fontsize=SMALL)
    add_color_bar(figure, drawn, axes[0], 'gain')
    add_color_bar(figure, drawn, axes[2], 'gain of the mixture')
    return figure


def _draw_mean_coefficients(axis: Axes, coefficients: np.ndarray) -> None:
    count = len(coefficients)
    axis.barh(range(count), coefficients.mean(1), color=[LINES[k % len(LINES)] for k in range(count)])
    axis.axvline(1 / count, color='0.4', linewidth=1, linestyle='--')
    axis.set(yticks=range(count), ylabel='stored filter')
    axis.invert_yaxis()
    axis.set_title('mean coefficient', fontsize=NORMAL)
    axis.tick_params(labelsize=SMALL)

"""The gated products of gnConvs over a picture: a row for each layer, a column for each order."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mmfreq.analysis.gating import GatingMaps
from mmfreq.analysis.plots.style import MAGNITUDE, NORMAL, WIDTH, add_colour_bar, draw_map, draw_picture, new_rows


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

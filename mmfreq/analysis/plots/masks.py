"""The masks of adaptive frequency filters over a picture: a row for each layer."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mmfreq.analysis.masks import SpectralMask
from mmfreq.analysis.plots.style import MAGNITUDE, NORMAL, SMALL, add_colour_bar, draw_map, draw_picture, new_rows

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

"""What all plots share: colors, figures of one width, maps with color bars, saving.

Legend: H W of a map.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage

# Okabe and Ito's colors, distinguishable with any color vision deficiency; without yellow, which is hardly visible on white
LINES = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#000000')
MARKERS = 'osD^vPX'
MAGNITUDE, SIGNED, CYCLIC = 'viridis', 'RdBu_r', 'twilight'  # color maps
WIDTH, DPI = 9.0, 100  # inches and dots per inch: 900 pixels
SMALL, NORMAL = 8, 9  # points


def new_figure(height: float, title: str) -> Figure:
    """An empty figure of `WIDTH` and this height in inches, with a layout that avoids overlaps."""
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.07, h_pad=0.06)
    figure.suptitle(title, fontsize=NORMAL + 2)
    return figure


def new_rows(titles: Sequence[str], side: float, title: str) -> tuple[Figure, list[SubFigure]]:
    """A figure with a subfigure for each row of images `side` inches high, titled on the left."""
    height = side + 0.75
    figure = new_figure(0.6 + height * len(titles), title)
    rows = np.atleast_1d(figure.subfigures(len(titles), 1)).tolist()
    for row, text in zip(rows, titles):
        row.suptitle(text, x=0.01, horizontalalignment='left', fontsize=NORMAL + 1)
    return figure, rows


def centered_extent(height: int, width: int) -> tuple[float, float, float, float]:
    """The `extent` of imshow that makes pixel `(height // 2, width // 2)` the origin; the vertical axis points down."""
    left, top = -(width // 2) - 0.5, -(height // 2) - 0.5
    return left, left + width, top + height, top


def draw_map(
    axis: Axes, values: np.ndarray, cmap: str, low: float, high: float, centered: bool = False, ticks: bool = True
) -> AxesImage:
    """Draw a map `(H, W)` with sharp pixels; NaN is hatched. `centered` moves the origin of the axes to its center."""
    extent = centered_extent(*values.shape) if centered else None
    image = axis.imshow(values, cmap=cmap, vmin=low, vmax=high, interpolation='nearest', extent=extent)
    axis.patch.set(facecolor='white', edgecolor='0.5', hatch='xxxxx')
    if ticks:
        axis.tick_params(labelsize=SMALL, length=2)
        axis.locator_params(nbins=3, integer=True)
    return image


def draw_input(axis: Axes, image: np.ndarray) -> None:
    """Draw the input image `(H, W, 3)` of a model."""
    axis.imshow(image)
    axis.set_title('input', fontsize=NORMAL)
    axis.set(xticks=[], yticks=[])


def add_color_bar(figure: Figure | SubFigure, image: AxesImage, axes: Sequence[Axes], label: str, **options) -> None:
    """Add a color bar beside a row of axes."""
    bar = figure.colorbar(image, ax=list(axes), pad=0.01, **{'aspect': 14, **options})
    bar.set_label(label, fontsize=NORMAL)
    bar.ax.tick_params(labelsize=SMALL)


def wrapped(name: str, width: int) -> str:
    """A long name on several lines of about `width` characters, broken after hyphens, underscores or spaces."""
    lines = ['']
    for part in re.findall(r'[^-_ ]*[-_ ]|[^-_ ]+', name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append('')
        lines[-1] += part
    return '\n'.join(line.rstrip() for line in lines)


def save(figure: Figure, path: str | Path) -> Path:
    """Write the figure to a file, whose folder is created if necessary."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, pil_kwargs={'optimize': True} if path.suffix == '.png' else {})
    return path

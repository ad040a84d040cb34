"""Scores of each class (IoU, AP) as a chart: the best class first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmfreq.analysis.plot_style import LINES, NORMAL, SMALL, new_figure

ROWS, COLUMNS = 50, 3  # classes in a column before there is another, and columns at most
ROW, ROW_OF_TWO = 0.16, 0.24  # inches for a class with one score, and with several
LONGEST = 24  # characters of a class name


@dataclass(frozen=True)
class ClassScores:
    """One score of each class, in percent; NaN for a class that the data have no object of.

    Attributes:
        name: of the score, such as 'IoU' or 'bbox AP'.
        values: `(K,)`, one for each of `classes`.
        mean: the score of the whole data set, as it is reported; NaN if there is none.
    """

    name: str
    classes: tuple[str, ...]
    values: np.ndarray
    mean: float


def plot_class_scores(scores: Sequence[ClassScores], title: str) -> Figure:
    """Bars for each class, sorted by the first score, in up to `COLUMNS` columns; a dashed line at each mean.

    Args:
        scores: of the same classes.
    """
    order = np.argsort(-np.nan_to_num(scores[0].values, nan=-1), kind='stable')
    columns = min(-(-len(order) // ROWS), COLUMNS)
    rows = -(-len(order) // columns)
    figure = new_figure(1.1 + rows * (ROW if len(scores) == 1 else ROW_OF_TWO), title)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for number, axis in enumerate(axes):
        _draw_column(axis, scores, order[number * rows : (number + 1) * rows], rows)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc='outside lower center', ncols=len(names), fontsize=NORMAL, frameon=False)
    return figure


def _draw_column(axis: Axes, scores: Sequence[ClassScores], picked: np.ndarray, rows: int) -> None:
    height = 0.8 / len(scores)
    for number, score in enumerate(scores):
        color = LINES[number % len(LINES)]
        values = score.values[picked]
        centers = np.arange(len(picked)) - 0.4 + height * (number + 0.5)
        axis.barh(centers, np.nan_to_num(values), height, color=color, label=score.name)
        for center, value in zip(centers, values):
            text = '-' if np.isnan(value) else f'{value:.1f}'
            axis.text(np.nan_to_num(value) + 0.8, center, text, va='center', fontsize=SMALL - 1)
        if not np.isnan(score.mean):
            label = f'mean {score.name} {score.mean:.1f}'
            axis.axvline(score.mean, color=color, linestyle='--', linewidth=1, zorder=0.5, label=label)  # behind the bars
    names = [scores[0].classes[index] for index in picked]
    axis.set_yticks(range(len(picked)), [name if len(name) <= LONGEST else f'{name[: LONGEST - 1]}…' for name in names])
    axis.set(xlim=(0, 112), ylim=(rows - 0.5, -0.5))
    kinds = dict.fromkeys(score.name.split()[-1] for score in scores)  # 'AP' of 'bbox AP' and 'segm AP'
    axis.set_xlabel(f'{", ".join(kinds)}, %', fontsize=SMALL)
    axis.set_xticks(range(0, 101, 25))
    axis.tick_params(labelsize=SMALL, length=2)
    axis.grid(axis='x', alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[['top', 'right']].set_visible(False)

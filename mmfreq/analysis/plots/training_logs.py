"""Training curves: a panel for each key, a line for each work directory."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmfreq.analysis.colours import LINES, MARKERS
from mmfreq.analysis.log_keys import best
from mmfreq.analysis.plots.style import NORMAL, SMALL, new_figure
from mmfreq.analysis.training_logs import TrainingLog

PER_ROW = 3
LEGEND_CHARACTERS = 110  # in a row
FEW = 30  # points; up to here each is marked


def plot_logs(logs: Mapping[str, TrainingLog], keys: Sequence[str], title: str) -> Figure:
    """The curves of `keys` of each log, by its name; a star at the best score of each."""
    per_row = 2 if len(keys) == 4 else min(len(keys), PER_ROW)
    rows = -(-len(keys) // per_row)
    figure = new_figure(0.9 + 2.7 * rows + 0.2 * -(-len(logs) // 3), title)
    axes = figure.subplots(rows, per_row, squeeze=False)
    for axis in axes.flat[len(keys) :]:
        axis.set_axis_off()
    for axis, key in zip(axes.flat, keys):
        _draw(axis, logs, key)
    handles = {text: handle for axis in axes.flat for handle, text in zip(*axis.get_legend_handles_labels())}
    ordered = [name for name in logs if name in handles]
    columns = max(1, min(4, LEGEND_CHARACTERS // max(map(len, ordered))))
    lines = [handles[name] for name in ordered]
    figure.legend(lines, ordered, loc='outside lower center', ncols=columns, fontsize=NORMAL, frameon=False)
    return figure


def _draw(axis: Axes, logs: Mapping[str, TrainingLog], key: str) -> None:
    for number, (name, log) in enumerate(logs.items()):
        if key not in log.curves:
            continue
        curve, colour, marker = log.curves[key], LINES[number % len(LINES)], MARKERS[number % len(MARKERS)]
        thickness = max(1.2, 2.6 - 0.35 * number)  # of two that coincide the one below shows
        few = len(curve.steps) <= FEW and curve.validated
        axis.plot(
            curve.steps, curve.values, color=colour, label=name, linewidth=thickness, marker=marker if few else '', markersize=5
        )
        if curve.validated and (found := best(curve, key)):
            axis.plot(*found, color=colour, marker='*', markersize=12, markeredgecolor='white', linestyle='')
    axis.set_title(key, fontsize=NORMAL + 1)
    axis.set_xlabel('iterations', fontsize=SMALL)
    axis.set_xlim(0, None)
    axis.tick_params(labelsize=SMALL)
    axis.ticklabel_format(axis='y', scilimits=(-3, 4))
    axis.yaxis.get_offset_text().set_fontsize(SMALL)
    axis.locator_params(axis='x', nbins=5)
    axis.grid(alpha=0.25)

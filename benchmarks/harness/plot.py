"""Time per pixel and memory against resolution, on logarithmic axes, one line per model and form."""

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from benchmarks.harness.entries import PEER
from benchmarks.harness.measure import Results, Run
from mmfreq.analysis.plot_style import LINES, MARKERS

STYLES = {'mmfreq': '-', 'compiled': '-.', 'reference': '--', 'timm': ':'}
PANELS = (  # mode, memory statistic or None for time, title
    ('inference', None, 'inference: time per pixel'),
    ('inference', 'peak', 'inference: peak memory'),
    ('training', None, 'forward and backward: time per pixel'),
    ('training', 'saved', 'training: saved activations'),
)
Lines = dict[tuple, dict[float, Run]]  # (mode, name, form, precision, conversion) -> side of the image -> run


def check_sizes(sizes: Collection) -> None:
    """Refuse to plot fewer than two sizes, before anything is measured."""
    if len(set(sizes)) < 2:
        raise ValueError(f'A plot against resolution needs at least two sizes, got {len(set(sizes))}. Give more with --size.')


def plot(results: Results, path: Path) -> None:
    """Write the plot; times are relative to those of the first model at the smallest size, memory is in MiB."""
    from matplotlib.figure import Figure

    lines = lines_of(results)
    panels = [panel for panel in PANELS if any(key[0] == panel[0] for key in lines)]
    rows, columns = -(-len(panels) // 2), min(2, len(panels))
    figure = Figure(figsize=(6 * columns, 4.2 * rows), layout='tight')
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (mode, statistic, title) in zip(axes, panels):
        _draw(axis, {key: runs for key, runs in lines.items() if key[0] == mode}, statistic)
        axis.set_title(title)
    labels = {text: handle for axis in figure.axes for handle, text in zip(*axis.get_legend_handles_labels())}
    figure.suptitle(results.hardware, fontsize=10)
    figure.legend(labels.values(), labels.keys(), loc='upper center', bbox_to_anchor=(0.5, 0), ncols=3, frameon=False)
    figure.savefig(path, dpi=130, bbox_inches='tight')


def lines_of(results: Results) -> Lines:
    """The timed runs by line and by side of the square with the same number of pixels."""
    found = defaultdict(dict)
    for run in (run for group in results.groups for run in group.runs if run.seconds):
        entry = run.entry
        key = (entry.mode, entry.model.name, entry.model.form, entry.precision, entry.conversion)
        found[key][(entry.size[0] * entry.size[1]) ** 0.5] = run
    return {key: dict(sorted(runs.items())) for key, runs in found.items()}


def _draw(axis, lines: Lines, statistic: str | None) -> None:
    names = list(dict.fromkeys(key[1] for key in lines))
    many_precisions = len({key[3:] for key in lines}) > 1
    first_key, first = next(iter(lines.items()))
    unit_time = time_per_pixel(first[min(first)])
    for (_, name, form, *precision), runs in lines.items():
        values = [
            time_per_pixel(run) / unit_time if statistic is None else getattr(run.memory, statistic) / 2**20
            for run in runs.values()
        ]
        index = names.index(name)
        axis.plot(
            list(runs),
            values,
            label=' '.join(filter(None, (name, '(timm)' if form == PEER else form, *(precision if many_precisions else ())))),
            color=LINES[index % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle=STYLES.get(form, '-'),
            markersize=max(4, 9 - 1.2 * index),  # so that of two equal lines both are visible
            linewidth=1.8,
        )
    sides = sorted({side for runs in lines.values() for side in runs})
    unit = f'{first_key[1]} at {min(first):.0f} = 1' if statistic is None else 'MiB'
    axis.set(ylabel=unit, xlabel='side of the image, pixels', xscale='log', yscale='log')
    axis.set_xticks(sides, [f'{side:.0f}' for side in sides])
    axis.xaxis.minorticks_off()
    axis.yaxis.set_major_formatter('{x:g}')
    low, high = axis.get_ylim()
    axis.yaxis.set_minor_formatter('{x:g}' if high < 10 * low else '')
    axis.grid(which='both', alpha=0.25)


def time_per_pixel(run: Run) -> float:
    return run.spread.median / run.entry.pixels

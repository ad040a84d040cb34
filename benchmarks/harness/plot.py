"""Time per pixel and memory against resolution, on logarithmic axes, one line for each model and form."""

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from benchmarks.harness.entries import PEER
from benchmarks.harness.measure import Results, Run
from mmfreq.analysis.plot_style import LINES as COLOURS
from mmfreq.analysis.plot_style import MARKERS

STYLES = {'ours': '-', 'compiled': '-.', 'published': '--', 'timm': ':'}
PANELS = (  # mode, kind of memory or None for time, title
    ('inference', None, 'inference: time per pixel'),
    ('inference', 'peak', 'inference: peak memory'),
    ('training', None, 'forward and backward: time per pixel'),
    ('training', 'saved', 'training: saved activations'),
)
Lines = dict[tuple, dict[float, Run]]  # (mode, name, form, precision, way) -> side of the image -> run


def check_sizes(sizes: Collection) -> None:
    """Refuse to plot fewer than two sizes, before anything is measured."""
    if len(set(sizes)) < 2:
        raise ValueError(f'a plot against resolution needs at least two sizes, got {len(set(sizes))}; give more with --size')


def plot(results: Results, path: Path) -> None:
    """Write the picture; times are relative to the first model's at the smallest size, memory is in MiB."""
    from matplotlib.figure import Figure

    lines = lines_of(results)
    panels = [panel for panel in PANELS if any(key[0] == panel[0] for key in lines)]
    rows, columns = -(-len(panels) // 2), min(2, len(panels))
    figure = Figure(figsize=(6 * columns, 4.2 * rows), layout='tight')
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (mode, kind, title) in zip(axes, panels):
        _draw(axis, {key: runs for key, runs in lines.items() if key[0] == mode}, kind)
        axis.set_title(title)
    labels = {text: handle for axis in figure.axes for handle, text in zip(*axis.get_legend_handles_labels())}
    figure.suptitle(results.machine, fontsize=10)
    figure.legend(labels.values(), labels.keys(), loc='upper center', bbox_to_anchor=(0.5, 0), ncols=3, frameon=False)
    figure.savefig(path, dpi=130, bbox_inches='tight')


def lines_of(results: Results) -> Lines:
    """The timed runs, by line and by the side of the square with as many pixels."""
    found = defaultdict(dict)
    for run in (run for group in results.groups for run in group.runs if run.seconds):
        entry = run.entry
        key = (entry.mode, entry.subject.name, entry.subject.form, entry.precision, entry.way)
        found[key][(entry.size[0] * entry.size[1]) ** 0.5] = run
    return {key: dict(sorted(runs.items())) for key, runs in found.items()}


def _draw(axis, lines: Lines, kind: str | None) -> None:
    names = list(dict.fromkeys(key[1] for key in lines))
    many_precisions = len({key[3:] for key in lines}) > 1
    first_key, first = next(iter(lines.items()))
    one = time_per_pixel(first[min(first)])
    for (_, name, form, *precision), runs in lines.items():
        values = [time_per_pixel(run) / one if kind is None else getattr(run.memory, kind) / 2**20 for run in runs.values()]
        index = names.index(name)
        axis.plot(
            list(runs),
            values,
            label=' '.join(filter(None, (name, '(timm)' if form == PEER else form, *(precision if many_precisions else ())))),
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle=STYLES.get(form, '-'),
            markersize=max(4, 9 - 1.2 * index),  # of two that coincide the one below shows
            linewidth=1.8,
        )
    sides = sorted({side for runs in lines.values() for side in runs})
    unit = f'{first_key[1]} at {min(first):.0f} = 1' if kind is None else 'MiB'
    axis.set(ylabel=unit, xlabel='side of the image, pixels', xscale='log', yscale='log')
    axis.set_xticks(sides, [f'{side:.0f}' for side in sides])
    axis.xaxis.minorticks_off()
    axis.yaxis.set_major_formatter('{x:g}')
    low, high = axis.get_ylim()
    axis.yaxis.set_minor_formatter('{x:g}' if high < 10 * low else '')
    axis.grid(which='both', alpha=0.25)


def time_per_pixel(run: Run) -> float:
    return run.spread.median / run.entry.pixels

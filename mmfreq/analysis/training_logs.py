"""Training curves of mmengine's work directories, read from the `<time>/vis_data/scalars.json` of every run in them.

A resumed run writes its own folder. Its records replace those of earlier runs from its first step on, so a run that starts from
scratch replaces all earlier ones.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmfreq.analysis.plot_style import LINES, MARKERS, NORMAL, SMALL, new_figure

SCALARS = 'vis_data/scalars.json'
COUNTERS = {'step', 'iter', 'epoch'}  # keys of a record that are not values to draw
TIMES = {'time', 'data_time'}  # keys of both training and validation records
SCORES = ('mIoU', 'coco/bbox_mAP', 'coco/segm_mAP', 'accuracy/top1')  # drawn by default
PANELS_PER_ROW = 3
LEGEND_CHARACTERS = 110  # in a row
MAX_MARKERS = 30  # curves with more points are drawn without markers


@dataclass(frozen=True)
class Curve:
    """Values `(n,)` at steps `(n,)`, counted in training iterations; `validated` if they come from validations."""

    steps: np.ndarray
    values: np.ndarray
    validated: bool = False


@dataclass(frozen=True)
class TrainingLog:
    """The curves of one work directory by key, and the number of runs that they were joined from."""

    folder: Path
    curves: dict[str, Curve]
    runs: int


def read_log(folder: str | Path) -> TrainingLog:
    """Read the log of a work directory, or of the folder of one run in it.

    Raises:
        FileNotFoundError: the folder does not exist or has no log; the message lists its content.
        ValueError: a line is not JSON (except an incomplete last one, left by an interrupted run), or there are no values.
    """
    folder = Path(folder)
    files = [folder / SCALARS] if (folder / SCALARS).is_file() else sorted(folder.glob(f'*/{SCALARS}'))
    if not files:
        raise FileNotFoundError(_no_log_message(folder))
    runs = [records for records in map(_read, files) if records]
    joined: list[tuple[int, dict]] = []
    for run in runs:
        joined = [(step, record) for step, record in joined if step < run[0][0]] + run
    points = defaultdict(list)
    for step, record in joined:
        for key in record.keys() - COUNTERS:
            points[key].append((step, record[key], 'iter' not in record))
    curves = {key: _curve(key, found) for key, found in sorted(points.items())}
    if not curves:
        raise ValueError(f'The logs in {folder} are empty: {", ".join(map(str, files))}. The run stopped before its first record.')
    return TrainingLog(folder, curves, len(runs))


def _read(path: Path) -> list[tuple[int, dict]]:
    """(iteration, record) of a run, in order.

    The step of a training record is its iteration. The step of a validation record may be its epoch; its iteration is then that of
    the training record before it.
    """
    records, last = [], 0
    lines = path.read_text(encoding='utf-8').rstrip().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f'Line {number} of {path} is not JSON ({error.msg}). Remove it.') from None
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
        last = max(last, int(numbers.get('step', last)))
        records.append((last, numbers))
    return records


def _curve(key: str, points: list[tuple[int, float, bool]]) -> Curve:
    """A curve from (step, value, validated); times, which occur in both types of records, are those of training."""
    if key in TIMES and not all(validated for *_, validated in points):
        points = [point for point in points if not point[2]]
    steps, values, validated = zip(*points)
    return Curve(np.array(steps), np.array(values, float), all(validated))


def _no_log_message(folder: Path) -> str:
    if not folder.is_dir():
        return f'The folder {folder} does not exist. Give the work directory of a training.'
    below = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob(f'*/{SCALARS}')))
    if below:
        return f'{folder} is not a work directory, but contains work directories. Give one of them: {", ".join(below)}.'
    content = ', '.join(sorted(path.name for path in folder.iterdir())[:10])
    return f'There is no <time>/{SCALARS} in {folder}, only {content or "nothing"}. Give the work directory of a training.'


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each folder's path, as many as are necessary to distinguish the folders."""
    paths = [Path(folder).resolve().parts for folder in folders]
    for count in range(1, max(map(len, paths)) + 1):
        names = ['/'.join(parts[-count:]) for parts in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return names


def choose_keys(logs: Sequence[TrainingLog], patterns: Sequence[str] = ()) -> list[str]:
    """Choose the keys to draw, each present in at least one log.

    Args:
        patterns: names, parts of names after the last slash, or globs. By default the loss, the learning rate and `SCORES`, or all
            scores if none of those is present.

    Raises:
        ValueError: a pattern matches no key; the message lists the nearest and all keys.
    """
    present = list(dict.fromkeys(key for log in logs for key in log.curves))
    if not patterns:
        scores = [key for key in SCORES if key in present] or [key for key in present if is_score(logs, key)]
        return [key for key in ('loss', 'lr') if key in present] + scores
    chosen = []
    for pattern in patterns:
        matching = [key for key in present if fnmatchcase(key, pattern) or key.rpartition('/')[2] == pattern]
        if not matching:
            near = get_close_matches(pattern, present, n=3, cutoff=0.4)
            nearest = f'nearest: {", ".join(near)}; ' if near else ''
            raise ValueError(f"There is no key '{pattern}' in the logs; {nearest}there are {', '.join(present)}.")
        chosen += matching
    return list(dict.fromkeys(chosen))


def is_score(logs: Sequence[TrainingLog], key: str) -> bool:
    """Whether the key comes from validations."""
    return key not in TIMES and all(log.curves[key].validated for log in logs if key in log.curves)


def better(curve: Curve, key: str) -> Callable[[np.ndarray], float] | None:
    """np.min for losses, np.max for scores and accuracies, None for values that are neither good nor bad."""
    name = key.rpartition('/')[2]
    if 'loss' in name:
        return np.min
    return np.max if (curve.validated and key not in TIMES) or 'acc' in name else None


def best(curve: Curve, key: str) -> tuple[int, float] | None:
    """(step, value) of the best value, the first of equal ones; None if `better` is None or no value is finite."""
    choose, finite = better(curve, key), np.isfinite(curve.values)
    if choose is None or not finite.any():
        return None
    index = int(np.flatnonzero(finite & (curve.values == choose(curve.values[finite])))[0])
    return int(curve.steps[index]), float(curve.values[index])


def plot_logs(logs: Mapping[str, TrainingLog], keys: Sequence[str], title: str) -> Figure:
    """A panel for each key, a line for each log, by its name; a star at the best score of each."""
    per_row = 2 if len(keys) == 4 else min(len(keys), PANELS_PER_ROW)
    rows = -(-len(keys) // per_row)
    figure = new_figure(0.9 + 2.7 * rows + 0.2 * -(-len(logs) // 3), title)
    axes = figure.subplots(rows, per_row, squeeze=False)
    for axis in axes.flat[len(keys) :]:
        axis.set_axis_off()
    for axis, key in zip(axes.flat, keys):
        _draw_panel(axis, logs, key)
    handles = {text: handle for axis in axes.flat for handle, text in zip(*axis.get_legend_handles_labels())}
    names = [name for name in logs if name in handles]
    columns = max(1, min(4, LEGEND_CHARACTERS // max(map(len, names))))
    lines = [handles[name] for name in names]
    figure.legend(lines, names, loc='outside lower center', ncols=columns, fontsize=NORMAL, frameon=False)
    return figure


def _draw_panel(axis: Axes, logs: Mapping[str, TrainingLog], key: str) -> None:
    for number, (name, log) in enumerate(logs.items()):
        if key not in log.curves:
            continue
        curve, color = log.curves[key], LINES[number % len(LINES)]
        few = len(curve.steps) <= MAX_MARKERS and curve.validated
        style = {'marker': MARKERS[number % len(MARKERS)] if few else '', 'markersize': 5}
        style['linewidth'] = max(1.2, 2.6 - 0.35 * number)  # decreasing, so that coinciding lines stay visible
        axis.plot(curve.steps, curve.values, color=color, label=name, **style)
        if curve.validated and (found := best(curve, key)):
            axis.plot(*found, color=color, marker='*', markersize=12, markeredgecolor='white', linestyle='')
    axis.set_title(key, fontsize=NORMAL + 1)
    axis.set_xlabel('iterations', fontsize=SMALL)
    axis.set_xlim(0, None)
    axis.tick_params(labelsize=SMALL)
    axis.ticklabel_format(axis='y', scilimits=(-3, 4))
    axis.yaxis.get_offset_text().set_fontsize(SMALL)
    axis.locator_params(axis='x', nbins=5)
    axis.grid(alpha=0.25)

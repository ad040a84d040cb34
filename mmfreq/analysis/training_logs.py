"""Training curves of mmengine's work directories, from the `<time>/vis_data/scalars.json` of every run in them.

A run that goes on from a checkpoint writes a folder of its own; here its records take the place of the earlier ones from the step
on at which it begins. A run that starts anew thus replaces the one before it.
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
POSITIONS = {'step', 'iter', 'epoch'}  # of a record, not values to draw
TIMES = {'time', 'data_time'}  # in both kinds of records


@dataclass(frozen=True)
class Curve:
    """Values `(n,)` over steps `(n,)`, counted in training iterations; `validated` where they come from a validation."""

    steps: np.ndarray
    values: np.ndarray
    validated: bool = False


@dataclass(frozen=True)
class TrainingLog:
    """The curves of one work directory by key; `runs` says how many runs they were joined from."""

    folder: Path
    curves: dict[str, Curve]
    runs: int


def read_log(folder: str | Path) -> TrainingLog:
    """The log of a work directory, or of one run's folder in it.

    Raises:
        FileNotFoundError: no such folder, or no log in it; what there is is named.
        ValueError: a line of a log is broken (the last one of a file may be: a run was cut off), or none has a value.
    """
    folder = Path(folder)
    files = [folder / SCALARS] if (folder / SCALARS).is_file() else sorted(folder.glob(f'*/{SCALARS}'))
    if not files:
        raise FileNotFoundError(_nothing_in(folder))
    runs = [records for records in map(_read, files) if records]
    joined: list[tuple[int, dict]] = []
    for run in runs:
        joined = [(step, record) for step, record in joined if step < run[0][0]] + run
    points = defaultdict(list)
    for step, record in joined:
        for key in record.keys() - POSITIONS:
            points[key].append((step, record[key], 'iter' not in record))
    curves = {key: _curve(key, found) for key, found in sorted(points.items())}
    if not curves:
        raise ValueError(f'the logs in {folder} are empty: {", ".join(map(str, files))}; the run stopped before its first record')
    return TrainingLog(folder, curves, len(runs))


def _read(path: Path) -> list[tuple[int, dict]]:
    """(iteration, record) of a run, in order.

    The step of a training record is its iteration. That of a validation may be its epoch: the record then belongs to the training
    record before it.
    """
    records, last = [], 0
    lines = path.read_text(encoding='utf-8').rstrip().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f'line {number} of {path} is no JSON ({error.msg}); remove it') from None
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
        last = max(last, int(numbers.get('step', last)))
        records.append((last, numbers))
    return records


def _curve(key: str, points: list[tuple[int, float, bool]]) -> Curve:
    """From (step, value, validated); times, which both kinds of records have, are those of training."""
    if key in TIMES and not all(validated for *_, validated in points):
        points = [point for point in points if not point[2]]
    steps, values, validated = zip(*points)
    return Curve(np.array(steps), np.array(values, float), all(validated))


def _nothing_in(folder: Path) -> str:
    if not folder.is_dir():
        return f'no folder {folder}; give the work directory of a training'
    below = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob(f'*/{SCALARS}')))
    if below:
        return f'{folder} is no work directory itself; those below it are {", ".join(below)}'
    there = ', '.join(sorted(path.name for path in folder.iterdir())[:10])
    return f'no <time>/{SCALARS} in {folder}; it holds {there or "nothing"}; give the work directory of a training'


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each folder's path, with as many before it as tell them apart."""
    paths = [Path(folder).resolve().parts for folder in folders]
    for count in range(1, max(map(len, paths)) + 1):
        names = ['/'.join(parts[-count:]) for parts in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return names


# Which curves of training logs to look at, and which of a curve's values is the best.


SCORES = ('mIoU', 'coco/bbox_mAP', 'coco/segm_mAP', 'accuracy/top1')  # drawn unless somebody says otherwise


def choose_keys(logs: Sequence[TrainingLog], wanted: Sequence[str] = ()) -> list[str]:
    """The keys to draw, each in at least one log: those meant by names, ends of names after a slash, or globs.

    By default the loss, the learning rate and the usual scores, or all scores where none of those is there.

    Raises:
        ValueError: a name means no key; the nearest and all keys are named.
    """
    there = list(dict.fromkeys(key for log in logs for key in log.curves))
    if not wanted:
        scores = [key for key in SCORES if key in there] or [key for key in there if is_score(logs, key)]
        return [key for key in ('loss', 'lr') if key in there] + scores
    chosen = []
    for name in wanted:
        found = [key for key in there if fnmatchcase(key, name) or key.rpartition('/')[2] == name]
        if not found:
            near = get_close_matches(name, there, n=3, cutoff=0.4)
            nearest = f'nearest: {", ".join(near)}; ' if near else ''
            raise ValueError(f"no key '{name}' in the logs; {nearest}there are {', '.join(there)}")
        chosen += found
    return list(dict.fromkeys(chosen))


def is_score(logs: Sequence[TrainingLog], key: str) -> bool:
    """Whether validations give it."""
    return key not in TIMES and all(log.curves[key].validated for log in logs if key in log.curves)


def better(curve: Curve, key: str) -> Callable[[np.ndarray], float] | None:
    """The least of losses, the largest of scores and accuracies; None for what is neither good nor bad."""
    name = key.rpartition('/')[2]
    if 'loss' in name:
        return np.min
    return np.max if (curve.validated and key not in TIMES) or 'acc' in name else None


def best(curve: Curve, key: str) -> tuple[int, float] | None:
    """(step, value) of the best value, the first of equals; None where there is no better."""
    choose, finite = better(curve, key), np.isfinite(curve.values)
    if choose is None or not finite.any():
        return None
    at = int(np.flatnonzero(finite & (curve.values == choose(curve.values[finite])))[0])
    return int(curve.steps[at]), float(curve.values[at])


# Training curves: a panel for each key, a line for each work directory.


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

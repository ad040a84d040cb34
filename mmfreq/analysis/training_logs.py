"""Training curves of mmengine's work directories, from the `<time>/vis_data/scalars.json` of every run in them.

A run that goes on from a checkpoint writes a folder of its own; here its records take the place of the earlier ones from the step
on at which it begins. A run that starts anew thus replaces the one before it.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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

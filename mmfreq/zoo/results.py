"""The file of results: one entry for each row, way of testing, checkpoint and config, kept over runs.

A measurement is never replaced by a failure, nor by the start of another evaluation.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmfreq.errors import UserError
from mmfreq.zoo.rows import Row, write_text

VERSION = 1
STARTED, MEASURED, FAILED, NO_DATA = 'started', 'measured', 'failed', 'no data'
STATES = (STARTED, MEASURED, FAILED, NO_DATA)


@dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes:
        row: name of the row.
        test: way of testing, see `verdicts`.
        sha256: of the checkpoint; `checkpoint` is its path.
        config: sha256 of the config as it was tested, and where its data are.
        state: one of `STATES`.
        metrics: by the names of the metafiles, in per cent; `raw` are mmengine's.
        reason: why it failed, or where data were looked for.
        log: what was printed.
        date: end, as in '2026-11-21 10:30'.
        versions: of torch and mmfreq.
    """

    row: str
    test: str
    sha256: str
    config: str
    checkpoint: str
    state: str = STARTED
    metrics: dict[str, float] = field(default_factory=dict)
    raw: dict[str, float] = field(default_factory=dict)
    reason: str = ''
    data: str = ''
    log: str = ''
    date: str = ''
    seconds: int = 0
    hardware: str = ''
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.row, self.test, self.sha256, self.config


class ResultsFile:
    """Results on disk, read again before every change, so that a second run beside this one loses nothing."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[tuple, Result]:
        """Results by their keys, oldest first; none if there is no file yet.

        Raises:
            UserError: the file is not one that was written here.
        """
        if not self.path.is_file():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding='utf-8'))
            version, entries = content['version'], content['results']
            results = [Result(**entry) for entry in entries] if version == VERSION else []
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{self.path} cannot be read ({error}): move it away to begin anew, or give another --out') from error
        if version != VERSION:
            raise UserError(f'{self.path} has version {version}, expected {VERSION}: give another --out')
        return {result.key: result for result in results}

    def record(self, result: Result) -> None:
        """Write a result, whole or not at all; a measurement of the same key that is there already stays."""
        results = self.read()
        before = results.pop(result.key, None)
        kept = before if before and before.state == MEASURED != result.state else result
        results[kept.key] = kept
        content = {'version': VERSION, 'results': [asdict(each) for each in results.values()]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(content, indent=1, allow_nan=False) + '\n')


# Measured metrics in the names of the metafiles, and the verdict on each.


SINGLE, MULTI = 'single scale', 'ms+flip'  # ways of testing
MULTI_METRIC = 'mIoU(ms+flip)'
TOLERANCE = 0.2  # per cent, inclusive
REPRODUCED, UNPUBLISHED = 'reproduced', 'measured (nothing published)'
# metric of mmengine, without what stands before the slash -> (name in a metafile, factor to per cent)
NAMES = {
    'mIoU': ('mIoU', 1),
    'bbox_mAP': ('box AP', 100),
    'segm_mAP': ('mask AP', 100),
    'top1': ('Top 1 Accuracy', 1),
    'top5': ('Top 5 Accuracy', 1),
}


class NoScoreError(ValueError):
    """An evaluation ended without the number that it was for."""


def ways_of(row: Row, single_scale: bool = False) -> list[str]:
    """The ways in which a row is tested."""
    return [SINGLE, MULTI] if MULTI_METRIC in row.metrics and not single_scale else [SINGLE]


def published_for(row: Row, test: str) -> dict[str, float]:
    """The published metrics of one way of testing."""
    return {name: value for name, value in row.metrics.items() if (name == MULTI_METRIC) == (test == MULTI)}


def named_metrics(found: Mapping[str, float], row: Row, test: str) -> dict[str, float]:
    """mmengine's metrics in the names of the metafiles, in per cent, rounded to two digits.

    Raises:
        NoScoreError: none is known here, a published one is not among them, or one is no number.
    """
    metrics = {}
    for key, value in found.items():
        name, factor = NAMES.get(key.rpartition('/')[2], (None, 1))
        if name:
            metrics[MULTI_METRIC if test == MULTI else name] = round(factor * value, 2)
    absent = [name for name in published_for(row, test) if name not in metrics]
    if absent or not metrics:
        hint = '; mmdet gives none where nothing was detected' if row.task == 'det' else ''
        raise NoScoreError(
            f'no {" and no ".join(absent) or "known metric"} in what was measured: {", ".join(found) or "nothing"}{hint}'
        )
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NoScoreError(f'{name} is {value}')
        if value < 0:  # of COCO's evaluation
            raise NoScoreError(f'{name} is not defined: the annotations hold no object')
    return metrics


def verdict(measured: float, published: float | None) -> str:
    """What the difference of two numbers in per cent means; they are compared to two digits, as they are written."""
    if published is None:
        return UNPUBLISHED
    difference = round(measured - published, 2)
    if abs(difference) <= TOLERANCE:
        return REPRODUCED
    return f'differs by {difference:+.{2 if abs(difference) < TOLERANCE + 0.05 else 1}f}'


def is_good(words: str) -> bool:
    """Whether a verdict is one that ends the run with status 0."""
    return words in (REPRODUCED, UNPUBLISHED)

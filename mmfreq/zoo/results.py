"""Results of evaluations: the file that keeps them over runs, the names of metrics, and the verdicts.

The file has one entry for each row, way of testing, checkpoint and config. A measurement is never replaced by a failure, nor by the
start of another evaluation.
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
SINGLE, MULTI = 'single scale', 'ms+flip'  # ways of testing
MULTI_METRIC = 'mIoU(ms+flip)'
TOLERANCE = 0.2  # per cent, inclusive
REPRODUCED, UNPUBLISHED = 'reproduced', 'measured (nothing published)'
# metric of mmengine, after its last slash -> (name in a metafile, factor to per cent)
NAMES = {
    'mIoU': ('mIoU', 1),
    'bbox_mAP': ('box AP', 100),
    'segm_mAP': ('mask AP', 100),
    'top1': ('Top 1 Accuracy', 1),
    'top5': ('Top 5 Accuracy', 1),
}


@dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes:
        row: name of the row.
        test: `SINGLE` or `MULTI`.
        sha256: of the checkpoint; `checkpoint` is its path.
        config: hash of the config and of the path of its data.
        state: `STARTED`, `MEASURED`, `FAILED` or `NO_DATA`.
        metrics: by their names in metafiles, in per cent; `raw` are mmengine's.
        reason: why it failed, or the missing paths of the data.
        log: path of the printed output.
        date: end, as in '2026-11-21 10:30'.
        versions: of torch and mmfreq.
        origin: of the weights, see `evaluation.origin_of`.
        seed: of the training run, see `evaluation.seed_of`.
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
    origin: str = ''
    seed: int | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.row, self.test, self.sha256, self.config


class ResultsFile:
    """Results on disk, read again before every change, so that two runs at a time lose nothing."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[tuple, Result]:
        """Results by their keys, oldest first; none without a file.

        Raises:
            UserError: the file is not a file of results, or of another version.
        """
        if not self.path.is_file():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding='utf-8'))
            version, entries = content['version'], content['results']
            results = [Result(**entry) for entry in entries] if version == VERSION else []
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{self.path} cannot be read ({error}). Move it away to start again, or give another --out.') from error
        if version != VERSION:
            raise UserError(f'Expected version {VERSION} of {self.path}, found version {version}. Give another --out.')
        return {result.key: result for result in results}

    def record(self, result: Result) -> None:
        """Write a result atomically; only a measurement replaces a measurement of the same key."""
        results = self.read()
        previous = results.pop(result.key, None)
        kept = previous if previous and previous.state == MEASURED != result.state else result
        results[kept.key] = kept
        content = {'version': VERSION, 'results': [asdict(each) for each in results.values()]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(content, indent=1, allow_nan=False) + '\n')


class NoScoreError(ValueError):
    """An evaluation ended without the expected metric."""


def ways_of(row: Row, single_scale: bool = False) -> list[str]:
    """The ways in which a row is tested."""
    return [SINGLE, MULTI] if MULTI_METRIC in row.metrics and not single_scale else [SINGLE]


def published_for(row: Row, test: str) -> dict[str, float]:
    """The published metrics of one way of testing."""
    return {name: value for name, value in row.metrics.items() if (name == MULTI_METRIC) == (test == MULTI)}


def named_metrics(found: Mapping[str, float], row: Row, test: str) -> dict[str, float]:
    """mmengine's metrics in the names of the metafiles, in per cent, rounded to two digits.

    Raises:
        NoScoreError: no known metric, a published one is missing, or one is not a valid number.
    """
    metrics = {}
    for key, value in found.items():
        name, factor = NAMES.get(key.rpartition('/')[2], (None, 1))
        if name:
            metrics[MULTI_METRIC if test == MULTI else name] = round(factor * value, 2)
    absent = [name for name in published_for(row, test) if name not in metrics]
    if absent or not metrics:
        hint = '; mmdet reports none where nothing is detected' if row.task == 'det' else ''
        raise NoScoreError(
            f'no {" and no ".join(absent) or "known metric"} among the measured metrics: {", ".join(found) or "none"}{hint}'
        )
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NoScoreError(f'{name} is {value}')
        if value < 0:  # COCO's evaluation gives -1
            raise NoScoreError(f'{name} is not defined: the annotations have no object')
    return metrics


def verdict(measured: float, published: float | None) -> str:
    """Compare two numbers in per cent, rounded to two digits."""
    if published is None:
        return UNPUBLISHED
    difference = round(measured - published, 2)
    if abs(difference) <= TOLERANCE:
        return REPRODUCED
    return f'differs by {difference:+.{2 if abs(difference) < TOLERANCE + 0.05 else 1}f}'


def is_success(verdict: str) -> bool:
    """Whether a verdict lets the run exit with status 0."""
    return verdict in (REPRODUCED, UNPUBLISHED)

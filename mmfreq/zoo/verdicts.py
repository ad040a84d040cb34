"""Measured metrics in the names of the metafiles, and the verdict on each."""

import math
from collections.abc import Mapping

from mmfreq.zoo.rows import Row

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

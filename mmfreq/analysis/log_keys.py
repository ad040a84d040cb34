"""Which curves of training logs to look at, and which of a curve's values is the best."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np

from mmfreq.analysis.training_logs import TIMES, Curve, TrainingLog

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

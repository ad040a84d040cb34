"""Paired rounds: every candidate once in each, so that what slows the machine down for a while slows all of them.

The order turns round from one round to the next. Ratios are taken round by round, and their median and quartiles reported.
"""

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import perf_counter

import numpy as np
import torch


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> 'Spread':
        low, median, high = np.percentile(list(values), (25, 50, 75))
        return cls(float(median), float(low), float(high))


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """`above` over `below`, round by round.

    Raises:
        ValueError: another number of rounds, or none.
    """
    if not above or len(above) != len(below):
        raise ValueError(f'ratios are of the same rounds, at least one; got {len(above)} and {len(below)}')
    return Spread.of(a / b for a, b in zip(above, below))


def geometric_mean(values: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log(list(values)))))


def seconds(call: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Of one call, on average over `times` in a row; waits for the device before and after."""
    _wait(device)
    start = perf_counter()
    for _ in range(times):
        call()
    _wait(device)
    return (perf_counter() - start) / times


def paired_rounds(
    calls: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, at_least: float = 0.05
) -> dict[str, list[float]]:
    """Seconds of each call in each round, all in this process; arguments as in `timed_rounds`."""
    return timed_rounds({label: partial(seconds, call, device) for label, call in calls.items()}, repeats, at_least)


def timed_rounds(timers: Mapping[str, Callable[[int], float]], repeats: int, at_least: float = 0.05) -> dict[str, list[float]]:
    """Seconds that each timer tells in each round.

    Args:
        timers: each runs its call as often as it is told, and returns the seconds of one.
        repeats: number of rounds.
        at_least: seconds that a measurement takes; a shorter call is repeated within it.
    """
    times = {label: max(1, ceil(at_least / timer(1))) for label, timer in timers.items()}  # a warm-up, too
    found: dict[str, list[float]] = {label: [] for label in timers}
    gc.collect()
    for number in range(repeats):
        for label in list(timers) if number % 2 == 0 else reversed(timers):
            found[label].append(timers[label](times[label]))
    return found


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)

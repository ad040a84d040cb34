"""Times of the backends of the spectral operator by map size, channels and dtype."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product

import torch

from benchmarks.harness.entries import DTYPES
from benchmarks.harness.tables import Table, ratio_text, without_empty
from benchmarks.harness.timing import Spread, paired_rounds, ratios
from mmfreq.analysis.latency import check_device
from mmfreq.ops import SPECTRAL_BACKENDS, apply_filter, half_width

SIDES = (7, 8, 14, 16, 28, 32, 56, 64, 112, 128, 256)
CHANNELS = (32, 64, 128)
BACKENDS = tuple(backend for backend in SPECTRAL_BACKENDS if backend != 'auto')


@dataclass(frozen=True)
class Timing:
    """Seconds of each round of every backend on one map size; `speeds` are relative to the first backend."""

    side: int
    channels: int
    precision: str
    seconds: dict[str, list[float]]

    @property
    def speeds(self) -> dict[str, Spread]:
        first = next(iter(self.seconds.values()))
        return {backend: ratios(first, found) for backend, found in self.seconds.items()}

    @property
    def best(self) -> str:
        return max(self.speeds, key=lambda backend: self.speeds[backend].median)

    def as_dict(self) -> dict:
        return {**asdict(self), 'best': self.best, 'speeds': {name: asdict(speed) for name, speed in self.speeds.items()}}


@torch.no_grad()
def tune(
    sides: Iterable[int] = SIDES,
    channels: Iterable[int] = CHANNELS,
    precisions: Iterable[str] = ('fp32',),
    device: str = 'cpu',
    batch: int = 1,
    repeats: int = 10,
    min_seconds: float = 0.02,
    log: Callable[[str], object] = print,
) -> list[Timing]:
    """Time `apply_filter` on `(batch, C, side, side)` maps with every backend that supports them, forward only, in paired rounds.

    Args:
        repeats, min_seconds: as in `paired_rounds`.
        log: called with a line of progress.

    Raises:
        ValueError: there is no such device.
    """
    check_device(device)
    found = []
    for precision, side, width in product(precisions, sides, channels):
        log(f'{side}x{side}, {width} channels, {precision}')
        x = torch.randn(batch, width, side, side, device=device).to(DTYPES[precision])
        weight = torch.randn(width, side, half_width(side), 2, device=device)
        calls = {backend: partial(apply_filter, x, weight, backend=backend) for backend in BACKENDS}
        calls = {backend: call for backend, call in calls.items() if backend == BACKENDS[0] or _is_supported(call)}
        found.append(Timing(side, width, precision, paired_rounds(calls, repeats, x.device, min_seconds)))
    return found


def _is_supported(call: Callable[[], object]) -> bool:
    """Whether the backend supports this device, size and dtype."""
    try:
        call()
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def tuning_table(timings: Iterable[Timing]) -> Table:
    """A row per map size, number of channels and dtype."""
    header = ('map', 'channels', 'dtype', *(f'{backend}: speed over {BACKENDS[0]}' for backend in BACKENDS[1:]), 'fastest')
    rows = (
        (
            f'{c.side}x{c.side}',
            str(c.channels),
            c.precision,
            *(ratio_text(c.speeds.get(backend)) for backend in BACKENDS[1:]),
            c.best,
        )
        for c in timings
    )
    return without_empty(Table('backends of the spectral operator', header, tuple(rows)))

"""Which backend of the spectral operator is faster, by map size, channels and dtype, on a device."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product

import torch

from benchmarks.harness.entries import DTYPES
from benchmarks.harness.tables import Table, times, without_empty
from benchmarks.harness.timing import Spread, paired_rounds, ratios
from mmfreq.analysis.latency import check_device
from mmfreq.ops import SPECTRAL_BACKENDS, apply_filter, half_width

SIDES = (7, 8, 14, 16, 28, 32, 56, 64, 112, 128, 256)
CHANNELS = (32, 64, 128)
BACKENDS = tuple(backend for backend in SPECTRAL_BACKENDS if backend != 'auto')


@dataclass(frozen=True)
class Choice:
    """Backends on one kind of map: seconds of every round, and of each backend how many times faster it is than the first."""

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
    at_least: float = 0.02,
    say: Callable[[str], object] = print,
) -> list[Choice]:
    """Time `apply_filter` on `(batch, C, side, side)` maps with every backend that works there, forward alone, in paired rounds.

    Args:
        repeats, at_least: as in `paired_rounds`.
        say: is told what is being done.

    Raises:
        ValueError: no such device.
    """
    check_device(device)
    found = []
    for precision, side, width in product(precisions, sides, channels):
        say(f'{side}x{side}, {width} channels, {precision}')
        x = torch.randn(batch, width, side, side, device=device).to(DTYPES[precision])
        weight = torch.randn(width, side, half_width(side), 2, device=device)
        calls = {backend: partial(apply_filter, x, weight, backend=backend) for backend in BACKENDS}
        calls = {backend: call for backend, call in calls.items() if backend == BACKENDS[0] or _works(call)}
        found.append(Choice(side, width, precision, paired_rounds(calls, repeats, x.device, at_least)))
    return found


def _works(call: Callable[[], object]) -> bool:
    """A backend may be for other devices, sizes or dtypes."""
    try:
        call()
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def tuning_table(choices: Iterable[Choice]) -> Table:
    """A row for each kind of map."""
    header = ('map', 'channels', 'dtype', *(f'{backend}: speed over {BACKENDS[0]}' for backend in BACKENDS[1:]), 'fastest')
    rows = (
        (f'{c.side}x{c.side}', str(c.channels), c.precision, *(times(c.speeds.get(backend)) for backend in BACKENDS[1:]), c.best)
        for c in choices
    )
    return without_empty(Table('backends of the spectral operator', header, tuple(rows)))

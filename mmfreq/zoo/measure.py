"""Parameters and FLOPs of a row's model, and whether they are those that its authors print."""

import re
from dataclasses import dataclass
from typing import Any

from mmfreq.analysis.complexity import count
from mmfreq.analysis.count_subject import count_subject
from mmfreq.analysis.paper_counts import paper_macs
from mmfreq.zoo.rows import Row

UNITS = {'': 1, 'M': 1e6, 'G': 1e9}
AGREES_WITHIN = 0.01  # or half of the last digit printed
FIELDS = ('Parameters', 'FLOPs', "FLOPs, paper's counting", 'Image size')  # of `Metadata`
# key of `Published` -> key of `Metadata` that is counted alike
COUNTED_ALIKE = {'Parameters': 'Parameters', 'FLOPs': "FLOPs, paper's counting"}


@dataclass(frozen=True)
class Agreement:
    """A measured number beside the printed one, such as '924G'."""

    name: str
    printed: str
    measured: int

    @property
    def difference(self) -> float:
        """Relative to the printed number."""
        return self.measured / printed_value(self.printed) - 1

    @property
    def holds(self) -> bool:
        printed = printed_value(self.printed)
        return abs(self.measured - printed) <= max(AGREES_WITHIN * printed, last_digit(self.printed) / 2)


def measure(row: Row) -> dict[str, Any]:
    """What `Metadata` says of the model: one image of the published size, one multiply-add is one FLOP.

    `FLOPs` are convolutions, matrix products, transforms and products of spectra (`ops/cost.py`); norms, activations and the
    like are left out, as everywhere. The paper's counting is that of `analysis/paper_counts.py`.
    """
    model, size = count_subject(str(row.config))
    size = tuple(row.published.get('Size', size))
    report = count(model, size)
    macs = report.macs
    counted = round(macs.conv_matmul + macs.fft + macs.spectral)
    as_published = round(paper_macs(model, report, row.family, row.task == 'cls'))
    return dict(zip(FIELDS, (report.params, counted, as_published, f'{size[0]}x{size[1]}'), strict=True))


def agreements(row: Row) -> list[Agreement]:
    """Every printed number of a row with the measured one."""
    metadata = row.entry['Metadata']
    return [
        Agreement(name, row.published[name], metadata[counted]) for name, counted in COUNTED_ALIKE.items() if name in row.published
    ]


def printed_value(text: str) -> float:
    """924000000000.0 of '924G'."""
    number, unit = _split(text)
    return float(number) * UNITS[unit]


def last_digit(text: str) -> float:
    """What one step of the last digit is worth: 1e8 in '4.5G'."""
    number, unit = _split(text)
    return UNITS[unit] / 10 ** len(number.partition('.')[2])


def _split(text: str) -> tuple[str, str]:
    found = re.fullmatch(r'(\d+(?:\.\d+)?)([MG]?)', text)
    if not found:
        raise ValueError(f'{text!r} is no printed number: expected digits and M or G, as in 52M or 4.5G')
    return found[1], found[2]

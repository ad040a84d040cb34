"""Results beside what is published, as lines of a table: on a page and on the terminal."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from mmfreq.zoo.audit import Audit
from mmfreq.zoo.checkpoints import Match
from mmfreq.zoo.data_roots import data_name
from mmfreq.zoo.results import FAILED, MEASURED, NO_DATA, STARTED, Result
from mmfreq.zoo.rows import Row
from mmfreq.zoo.verdicts import is_good, published_for, verdict

UNREADABLE = 'its config cannot be read'  # in the place of a key that differs
HEADINGS = ('row', 'test', 'metric', 'published', 'measured', 'verdict')
ON_PAGE = ('checkpoint', 'date', 'hardware')
WITHOUT_NUMBER = {FAILED: 'failed: {0.reason}; log: {0.log}', NO_DATA: 'no data: looked at {0.reason}', STARTED: 'not finished'}
TITLE = """\
# Measured against published

Written by `python tools/reproduce.py` from `results.json` beside it. Metrics in per cent; 'reproduced' is what is within 0.2 of the
published number. Of each checkpoint the newest measurement, and what was tried after it.
"""


@dataclass(frozen=True)
class Line:
    """One metric of one result; of a result without metrics, all published ones together."""

    result: Result
    metric: str
    published: float | None
    measured: float | None
    verdict: str

    @property
    def is_good(self) -> bool:
        return is_good(self.verdict)

    def cells(self) -> tuple[str, ...]:
        numbers = ('-' if value is None else f'{value:.{digits}f}' for value, digits in ((self.published, 1), (self.measured, 2)))
        return self.result.row, self.result.test, self.metric, *numbers, self.verdict


def lines_of(results: Iterable[Result], rows: Iterable[Row]) -> list[Line]:
    """A line for each metric, in the order of the rows; results of rows that are no more are left out."""
    results = list(results)
    return [line for row in rows for result in results if result.row == row.name for line in _lines(result, row)]


def _lines(result: Result, row: Row) -> list[Line]:
    published = published_for(row, result.test)
    if result.state == MEASURED:
        return [
            Line(result, name, published.get(name), value, verdict(value, published.get(name)))
            for name, value in result.metrics.items()
        ]
    words = WITHOUT_NUMBER[result.state].format(result).removesuffix('; log: ')
    return [Line(result, name, value, None, words) for name, value in published.items()] or [Line(result, '-', None, None, words)]


def newest(results: Iterable[Result]) -> list[Result]:
    """Of each row, way of testing and checkpoint the last measurement, and what came after it."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault(result.key[:3], []).append(result)
    kept = []
    for group in groups.values():
        measured = [result for result in group if result.state == MEASURED][-1:]
        kept += measured + ([group[-1]] if group[-1] not in measured else [])
    return kept


def page(lines: Iterable[Line]) -> str:
    """`results.md`."""
    headings = (*HEADINGS, *ON_PAGE)
    rule = ['--:' if name in ('published', 'measured') else '---' for name in headings]
    cells = [
        (*line.cells(), Path(line.result.checkpoint).name, line.result.date, line.result.hardware or '-')
        for line in lines
    ]  # fmt: skip
    return '\n'.join([TITLE, *(f'| {" | ".join(row)} |' for row in (headings, rule, *map(_plain, cells))), ''])


def _plain(cells: Iterable[str]) -> list[str]:
    return [cell.replace('|', '\\|').replace('\n', ' ') for cell in cells]


def tally(lines: Iterable[Line]) -> str:
    """How many metrics there are of each verdict."""
    kinds = Counter(re.split(r' by |: ', line.verdict)[0] for line in lines)
    return ', '.join(f'{count} {kind}' for kind, count in kinds.most_common())


def list_table(rows: Iterable[Row], matches: Iterable[Match]) -> Table:
    """Rows with what `--data` calls their data, what is published of them, and how many checkpoints they have."""
    drawn = Table()
    drawn.add_column('row', overflow='fold')
    for name in ('data', 'published'):
        drawn.add_column(name)
    drawn.add_column('checkpoints', justify='right')
    counts = Counter(match.row.name for match in matches)
    for row in rows:
        published = ', '.join(f'{name} {value:.1f}' for name, value in row.metrics.items()) or '-'
        drawn.add_row(row.name, data_name(row), published, str(counts[row.name] or '-'))
    return drawn


def audit_table(audits: Iterable[Audit]) -> Table:
    """How many keys of each recipe a source gives, how many are ours, and how many differ."""
    drawn = Table('row', title='configs against the recorded recipes, keys compared')
    for name in ('given by a source', 'ours', 'differ'):
        drawn.add_column(name, justify='right')
    for each in audits:
        differing = len(each.differences)
        drawn.add_row(each.row.name, *map(str, each.compared), str(differing), style='yellow' if differing else None)
    return drawn


def difference_words(audit: Audit) -> list[str]:
    """A line for each key in which a config and the record differ."""
    return [
        f'{audit.row.name}: {UNREADABLE}: {found.config}'
        if found.key == UNREADABLE
        else f'{audit.row.name}: {found.key} is {found.config!r} in the config, {found.recorded!r} in the record'
        for found in audit.differences
    ]


def table(lines: Iterable[Line]) -> Table:
    """The same for the terminal."""
    drawn = Table()
    for name in HEADINGS:
        drawn.add_column(name, justify='right' if name in ('published', 'measured') else 'left', overflow='fold')
    lines = list(lines)
    files = {(line.result.row, line.result.checkpoint) for line in lines}
    several = [row for row, count in Counter(row for row, _ in files).items() if count > 1]
    last = None
    for line in lines:
        name, *cells = line.cells()
        file = line.result.checkpoint
        first = f'{name}\n{Path(file).name}' if name in several else name
        shown = (first if (name, file) != last else '', *cells)
        drawn.add_row(*map(escape, shown), style=None if line.is_good else 'yellow')
        last = name, file
    return drawn

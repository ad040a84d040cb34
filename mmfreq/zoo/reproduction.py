"""Evaluate the checkpoints of rows, one after the other, and compare the results with the published numbers.

What is measured already (the same row, way of testing, checkpoint and config) is not measured again; what was interrupted or failed
is. An error in one evaluation becomes its result, and the next one follows. The second half of the file draws the tables.
"""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path

from mmengine.config import Config
from rich.markup import escape
from rich.table import Table

from mmfreq.errors import UserError
from mmfreq.zoo.checkpoints import Match, sha256_of
from mmfreq.zoo.data_roots import Located, data_name, locate
from mmfreq.zoo.evaluation import LOG, Job, Outcome, evaluate_in_subprocess
from mmfreq.zoo.recipes import Audit, Difference, audit, read_config
from mmfreq.zoo.results import (
    FAILED,
    MEASURED,
    MULTI,
    NO_DATA,
    STARTED,
    NoScoreError,
    Result,
    ResultsFile,
    is_success,
    named_metrics,
    published_for,
    verdict,
    ways_of,
)
from mmfreq.zoo.rows import Row, write_text

JSON, PAGE = 'results.json', 'results.md'
UNREADABLE = 'its config cannot be read'  # in place of a key that differs
HEADINGS = ('row', 'test', 'metric', 'published', 'measured', 'verdict')
PAGE_HEADINGS = (*HEADINGS, 'checkpoint', 'date', 'hardware')
WITHOUT_NUMBER = {FAILED: 'failed: {0.reason}; log: {0.log}', NO_DATA: 'no data: looked at {0.reason}', STARTED: 'not finished'}
TITLE = """\
# Measured and published numbers

`python tools/reproduce.py` writes this page from `results.json` in the same folder. Metrics are in per cent; 'reproduced' means
within 0.2 of the published number. For each checkpoint: the newest measurement, and the last attempt if it was later.
"""


@dataclass(frozen=True)
class Settings:
    """Folder of the results, dataset names to folders, whether to skip multi-scale tests, whether to skip `mmfreq.optimize`."""

    out: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    single_scale: bool = False
    plain: bool = False


def select(rows: Iterable[Row], pattern: str | None) -> list[Row]:
    """Rows whose name contains `pattern`, or matches it as a shell pattern; all rows for None.

    Raises:
        UserError: no such row.
    """
    rows = list(rows)
    found = [row for row in rows if pattern is None or pattern in row.name or fnmatch(row.name, pattern)]
    if not found:
        raise UserError(f'Expected a part of a row name, or a shell pattern, but none of the {len(rows)} rows matches {pattern!r}.')
    return found


def reproduce(
    matches: Iterable[Match],
    rows: Iterable[Row],
    settings: Settings,
    evaluate: Callable[[Job], Outcome] = evaluate_in_subprocess,
    log: Callable[[str], None] = print,
) -> list[Result]:
    """Evaluate the matched checkpoints; `results.json` and `results.md` are written after each.

    Args:
        matches: checkpoints with their rows.
        rows: all rows, for the page, which also has the results of earlier runs.
        evaluate: does one evaluation.
        log: gets each line of progress.

    Returns:
        The results of these checkpoints, of this run or an earlier one.

    Raises:
        UserError: an unreadable results file.
    """
    file, rows, done = ResultsFile(settings.out / JSON), list(rows), {}
    steps = [(match, test) for match in matches for test in ways_of(match.row, settings.single_scale)]
    for count, (match, test) in enumerate(steps, 1):
        started, data = prepare(match, test, settings)
        if started.key in done:
            log(f'[{count}/{len(steps)}] {match.file}: the same file again')
            continue
        earlier = file.read().get(started.key)
        log(f'[{count}/{len(steps)}] {match.row.name}, {test}, {match.file}')
        if earlier and earlier.state == MEASURED:
            log(f'  measured on {earlier.date}: {numbers(earlier)}')
            done[started.key] = earlier
            continue
        result = started
        if data:
            log(f'  running, log in {started.log}')
            file.record(started)
            result = finish(started, match.row, data, evaluate, settings.plain)
        file.record(result)
        write_page(file, rows)
        done[result.key] = result
        log(f'  {numbers(result) or result.state + ": " + result.reason} ({result.seconds} s)')
    write_page(file, rows)
    return list(done.values())


def prepare(match: Match, test: str, settings: Settings) -> tuple[Result, Located | None]:
    """The started result and the data of an evaluation; the final result and None where it cannot start."""
    started = Result(match.row.name, test, '', '', str(match.file), date=now())
    try:
        started = replace(started, sha256=sha256_of(match.file))
        cfg = read_config(match.row.config)
        data = locate(cfg, settings.data.get(data_name(match.row)))
    except Exception as error:
        return replace(started, state=FAILED, reason=f'{type(error).__name__}: {error}'), None
    started = replace(started, config=fingerprint(cfg, data.root), data=data.root)
    if data.missing:
        return replace(started, state=NO_DATA, reason=', '.join(data.missing)), None
    folder = settings.out / match.row.name / test.replace(' ', '-') / started.sha256[:12]
    return replace(started, log=str(folder / LOG)), data


def finish(started: Result, row: Row, data: Located, evaluate: Callable[[Job], Outcome], plain: bool = False) -> Result:
    """Evaluate, and return the final result."""
    start = time.monotonic()
    folder = str(Path(started.log).parent)
    outcome = evaluate(Job(str(row.config), started.checkpoint, folder, started.test == MULTI, dict(data.options), plain))
    result = replace(
        started,
        date=now(),
        seconds=round(time.monotonic() - start),
        hardware=outcome.hardware,
        versions=outcome.versions,
        origin=outcome.origin,
        seed=outcome.seed,
        raw={key: value for key, value in outcome.metrics.items() if abs(value) < float('inf')},
    )
    if outcome.reason:
        return replace(result, state=FAILED, reason=outcome.reason)
    try:
        return replace(result, state=MEASURED, metrics=named_metrics(outcome.metrics, row, started.test))
    except NoScoreError as error:
        return replace(result, state=FAILED, reason=str(error))


def fingerprint(cfg: Config, root: str) -> str:
    """A hash of a config and of the path of its data."""
    text = json.dumps([cfg.to_dict(), root], sort_keys=True, default=lambda value: getattr(value, '__name__', str(type(value))))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def numbers(result: Result) -> str:
    """The metrics as text."""
    return ', '.join(f'{name} {value:.2f}' for name, value in result.metrics.items())


def now() -> str:
    return datetime.now().strftime('%Y-%m-%d %H:%M')


def audit_or_difference(row: Row) -> Audit:
    """A row's config against its recipe; a config that cannot be read differs in the key `UNREADABLE`."""
    try:
        return audit(row)
    except Exception as error:
        return Audit(row, (0, 0), (Difference(UNREADABLE, f'{type(error).__name__}: {error}', ''),))


@dataclass(frozen=True)
class Line:
    """One line of a table: a metric of a result, or a published metric of a result without metrics."""

    result: Result
    metric: str
    published: float | None
    measured: float | None
    verdict: str

    @property
    def is_success(self) -> bool:
        return is_success(self.verdict)

    def cells(self) -> tuple[str, ...]:
        numbers = ('-' if value is None else f'{value:.{digits}f}' for value, digits in ((self.published, 1), (self.measured, 2)))
        return self.result.row, self.result.test, self.metric, *numbers, self.verdict


def lines_of(results: Iterable[Result], rows: Iterable[Row]) -> list[Line]:
    """A line for each metric, in the order of the rows; results of removed rows are skipped."""
    results = list(results)
    return [line for row in rows for result in results if result.row == row.name for line in _lines(result, row)]


def _lines(result: Result, row: Row) -> list[Line]:
    published = published_for(row, result.test)
    if result.state == MEASURED:
        return [
            Line(result, name, published.get(name), value, verdict(value, published.get(name)))
            for name, value in result.metrics.items()
        ]
    text = WITHOUT_NUMBER[result.state].format(result).removesuffix('; log: ')
    return [Line(result, name, value, None, text) for name, value in published.items()] or [Line(result, '-', None, None, text)]


def newest(results: Iterable[Result]) -> list[Result]:
    """For each row, way of testing and checkpoint: the last measurement, and the last attempt if it was later."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault(result.key[:3], []).append(result)
    kept = []
    for group in groups.values():
        measured = [result for result in group if result.state == MEASURED][-1:]
        kept += measured + ([group[-1]] if group[-1] not in measured else [])
    return kept


def write_page(file: ResultsFile, rows: Iterable[Row]) -> None:
    """Write `results.md` beside the file of results."""
    write_text(file.path.with_name(PAGE), page(lines_of(newest(file.read().values()), rows)))


def page(lines: Iterable[Line]) -> str:
    """`results.md`."""
    rule = ['--:' if name in ('published', 'measured') else '---' for name in PAGE_HEADINGS]
    cells = [
        (*line.cells(), Path(line.result.checkpoint).name, line.result.date, line.result.hardware or '-')
        for line in lines
    ]  # fmt: skip
    escaped = [[cell.replace('|', '\\|').replace('\n', ' ') for cell in row] for row in cells]
    return '\n'.join([TITLE, *(f'| {" | ".join(row)} |' for row in (PAGE_HEADINGS, rule, *escaped)), ''])


def tally(lines: Iterable[Line]) -> str:
    """The number of metrics for each verdict."""
    counts = Counter(re.split(r' by |: ', line.verdict)[0] for line in lines)
    return ', '.join(f'{count} {name}' for name, count in counts.most_common())


def results_table(lines: Iterable[Line]) -> Table:
    """The lines for the terminal; of rows with several checkpoints also the file names."""
    table = Table()
    for name in HEADINGS:
        table.add_column(name, justify='right' if name in ('published', 'measured') else 'left', overflow='fold')
    lines = list(lines)
    files = {(line.result.row, line.result.checkpoint) for line in lines}
    several = [row for row, count in Counter(row for row, _ in files).items() if count > 1]
    last = None
    for line in lines:
        name, *cells = line.cells()
        file = line.result.checkpoint
        first = f'{name}\n{Path(file).name}' if name in several else name
        shown = (first if (name, file) != last else '', *cells)
        table.add_row(*map(escape, shown), style=None if line.is_success else 'yellow')
        last = name, file
    return table


def list_table(rows: Iterable[Row], matches: Iterable[Match]) -> Table:
    """Rows with the name of their data in `--data`, their published metrics, and their number of checkpoints."""
    table = Table()
    table.add_column('row', overflow='fold')
    for name in ('data', 'published'):
        table.add_column(name)
    table.add_column('checkpoints', justify='right')
    counts = Counter(match.row.name for match in matches)
    for row in rows:
        published = ', '.join(f'{name} {value:.1f}' for name, value in row.metrics.items()) or '-'
        table.add_row(row.name, data_name(row), published, str(counts[row.name] or '-'))
    return table


def audit_table(audits: Iterable[Audit]) -> Table:
    """For each recipe, the number of keys that a source gives, of own choices, and of differences."""
    table = Table('row', title='configs and recorded recipes: number of keys')
    for name in ('given by a source', 'own choice', 'differ'):
        table.add_column(name, justify='right')
    for each in audits:
        differing = len(each.differences)
        table.add_row(each.row.name, *map(str, each.compared), str(differing), style='yellow' if differing else None)
    return table


def difference_lines(audit: Audit) -> list[str]:
    """A line for each key in which a config and the record differ."""
    return [
        f'{audit.row.name}: {UNREADABLE}: {found.config}'
        if found.key == UNREADABLE
        else f'{audit.row.name}: {found.key} is {found.config!r} in the config, {found.recorded!r} in the record'
        for found in audit.differences
    ]

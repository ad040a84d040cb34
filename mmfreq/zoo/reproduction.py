"""Results beside what is published, as lines of a table: on a page and on the terminal."""

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
from mmfreq.zoo.evaluation import LOG, Job, Outcome, evaluate_apart
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
    is_good,
    named_metrics,
    published_for,
    verdict,
    ways_of,
)
from mmfreq.zoo.rows import Row, write_text

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


# Evaluates the checkpoints of rows, one after the other, and keeps what came out.
#
# What is measured already (the same row, way of testing, checkpoint and config) is not measured again; what was begun and did not
# end, or failed, is. Whatever goes wrong with one evaluation is its result, and the next one follows.


JSON, PAGE = 'results.json', 'results.md'


@dataclass(frozen=True)
class Settings:
    """Folder for results, folders of data sets by their names, no multi-scale tests, models without `mmfreq.optimize`."""

    out: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    single_scale: bool = False
    plain: bool = False


def select(rows: Iterable[Row], pattern: str | None) -> list[Row]:
    """Rows whose name holds `pattern`, or matches it as in a shell; all without one.

    Raises:
        UserError: there is none.
    """
    rows = list(rows)
    found = [row for row in rows if pattern is None or pattern in row.name or fnmatch(row.name, pattern)]
    if not found:
        raise UserError(f'none of the {len(rows)} rows matches {pattern!r}: give a part of a name, or a pattern as in a shell')
    return found


def audited(row: Row) -> Audit:
    """A row's config against its recipe; one that cannot be read differs, in the key `UNREADABLE`."""
    try:
        return audit(row)
    except Exception as error:
        return Audit(row, (0, 0), (Difference(UNREADABLE, f'{type(error).__name__}: {error}', ''),))


def reproduce(
    matches: Iterable[Match],
    rows: Iterable[Row],
    settings: Settings,
    evaluate: Callable[[Job], Outcome] = evaluate_apart,
    say: Callable[[str], None] = print,
) -> list[Result]:
    """Evaluate the matched checkpoints; `results.json` and `results.md` are written after each.

    Args:
        matches: checkpoints with their rows.
        rows: all rows, for the page, which also tells results of earlier runs.
        evaluate: what does one evaluation.
        say: is told what happens.

    Returns:
        The results of these checkpoints, of this run or an earlier one.

    Raises:
        UserError: there is a results file that cannot be read.
    """
    file, rows, done = ResultsFile(settings.out / JSON), list(rows), {}
    steps = [(match, test) for match in matches for test in ways_of(match.row, settings.single_scale)]
    for count, (match, test) in enumerate(steps, 1):
        begun, data = prepare(match, test, settings)
        if begun.key in done:
            say(f'[{count}/{len(steps)}] {match.file} is the same file again')
            continue
        earlier = file.read().get(begun.key)
        say(f'[{count}/{len(steps)}] {match.row.name}, {test}, {match.file}')
        if earlier and earlier.state == MEASURED:
            say(f'  measured on {earlier.date}: {numbers(earlier)}')
            done[begun.key] = earlier
            continue
        result = begun
        if data:
            say(f'  running, log in {begun.log}')
            file.record(begun)
            result = finish(begun, match.row, data, evaluate, settings.plain)
        file.record(result)
        write_page(file, rows)
        done[result.key] = result
        say(f'  {numbers(result) or result.state + ": " + result.reason} ({result.seconds} s)')
    write_page(file, rows)
    return list(done.values())


def write_page(file: ResultsFile, rows: Iterable[Row]) -> None:
    """`results.md` beside the file of results."""
    write_text(file.path.with_name(PAGE), page(lines_of(newest(file.read().values()), rows)))


def numbers(result: Result) -> str:
    """Metrics in words."""
    return ', '.join(f'{name} {value:.2f}' for name, value in result.metrics.items())


def prepare(match: Match, test: str, settings: Settings) -> tuple[Result, Located | None]:
    """The result that an evaluation begins with, and its data; the final result and None where it cannot begin."""
    begun = Result(match.row.name, test, '', '', str(match.file), date=now())
    try:
        begun = replace(begun, sha256=sha256_of(match.file))
        cfg = read_config(match.row.config)
        data = locate(cfg, settings.data.get(data_name(match.row)))
    except Exception as error:
        return replace(begun, state=FAILED, reason=f'{type(error).__name__}: {error}'), None
    begun = replace(begun, config=fingerprint(cfg, data.root), data=data.root)
    if data.missing:
        return replace(begun, state=NO_DATA, reason=', '.join(data.missing)), None
    folder = settings.out / match.row.name / test.replace(' ', '-') / begun.sha256[:12]
    return replace(begun, log=str(folder / LOG)), data


def fingerprint(cfg: Config, root: str) -> str:
    """What tells two configs, or the places of their data, apart."""
    text = json.dumps([cfg.to_dict(), root], sort_keys=True, default=lambda value: getattr(value, '__name__', str(type(value))))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finish(begun: Result, row: Row, data: Located, evaluate: Callable[[Job], Outcome], plain: bool = False) -> Result:
    """The result of an evaluation."""
    start = time.monotonic()
    folder = str(Path(begun.log).parent)
    outcome = evaluate(Job(str(row.config), begun.checkpoint, folder, begun.test == MULTI, dict(data.options), plain))
    told = dict(
        date=now(),
        seconds=round(time.monotonic() - start),
        hardware=outcome.hardware,
        versions=outcome.versions,
        raw={key: value for key, value in outcome.metrics.items() if abs(value) < float('inf')},
    )
    if outcome.reason:
        return replace(begun, state=FAILED, reason=outcome.reason, **told)
    try:
        return replace(begun, state=MEASURED, metrics=named_metrics(outcome.metrics, row, begun.test), **told)
    except NoScoreError as error:
        return replace(begun, state=FAILED, reason=str(error), **told)


def now() -> str:
    return datetime.now().strftime('%Y-%m-%d %H:%M')

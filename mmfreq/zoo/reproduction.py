"""Evaluates the checkpoints of rows, one after the other, and keeps what came out.

What is measured already (the same row, way of testing, checkpoint and config) is not measured again; what was begun and did not
end, or failed, is. Whatever goes wrong with one evaluation is its result, and the next one follows.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path

from mmengine.config import Config

from mmfreq.engine.errors import UserError
from mmfreq.zoo.audit import Audit, Difference, audit
from mmfreq.zoo.checkpoints import Match, sha256_of
from mmfreq.zoo.data_roots import Located, data_name, locate
from mmfreq.zoo.evaluation import LOG, Job, Outcome, evaluate_apart
from mmfreq.zoo.facts import read_config
from mmfreq.zoo.report import UNREADABLE, lines_of, newest, page
from mmfreq.zoo.results import FAILED, MEASURED, NO_DATA, Result, ResultsFile
from mmfreq.zoo.rows import Row, write_text
from mmfreq.zoo.verdicts import MULTI, NoScoreError, named_metrics, ways_of

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

"""Tables of ratios. A time stands only where a ratio to the baseline and to the floor stands beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mmfreq.analysis.benchmark.cells import NOTHING, Table, error, floor, memory_ratio, mib, ms, pixels, times, without_empty, words
from mmfreq.analysis.benchmark.results import GroupResult, Results, Run
from mmfreq.analysis.benchmark.timing import Spread, geometric_mean

LOW_PRECISIONS = ('tf32', 'bf16', 'fp16')


@dataclass(frozen=True)
class Column:
    """A column over groups: what it shows of one, and the ratio whose geometric mean stands below."""

    header: str
    cell: Callable[[GroupResult], str]
    ratio: Callable[[GroupResult], float | None] | None = None


def tables(results: Results) -> list[Table]:
    """All tables of a suite, the main one first."""
    if results.settings.suite == 'published':
        found = [_against_published(results, mode) for mode in results.settings.modes]
    elif results.settings.suite == 'growth':
        found = [_growth(results)]
    else:
        found = [_side_by_side(results, group) for group in results.groups]
    return [without_empty(table) for table in found if table.rows]


def _against_published(results: Results, mode: str) -> Table:
    groups = [group for group in results.groups if group.baseline.entry.mode == mode]
    columns = [
        Column('size', lambda group: pixels(group.baseline.entry.size)),
        Column('published, ms', lambda group: ms(group.baseline)),
    ]
    for form in results.settings.forms:
        fastest = partial(GroupResult.fastest, precision='fp32', form=form)
        columns.append(Column(f'{form}, ms', lambda group, fastest=fastest: ms(fastest(group))))
        columns.append(_speed_column(f'{form}: speed', fastest))
    for precision in LOW_PRECISIONS:
        columns.append(_speed_column(f'{precision}: speed', partial(GroupResult.fastest, precision=precision), named=True))
    for kind in ('saved', 'peak'):
        columns.append(Column(f'{kind}: published, ours, MiB', partial(_two_sizes, kind=kind)))
        columns.append(_memory_column(f'{kind}: ratio', kind))
    columns += [_memory_column(f'{kind}: ratio of memory_efficient', kind, 'memory_efficient') for kind in ('kept', 'peak')]
    columns.append(Column('floor', lambda group: floor(results, group.fastest('fp32'))))
    for precision in ('fp32', *LOW_PRECISIONS):
        columns.append(Column(f'error {precision}', partial(_worst_error, precision=precision, name='error')))
    columns.append(Column('error of gradients', partial(_worst_error, precision='fp32', name='gradient_error')))
    rows = [(group.baseline.entry.subject.name, *(column.cell(group) for column in columns)) for group in groups]
    if len(rows) > 1:
        rows.append(('geometric mean', *(_mean(column, groups) for column in columns)))
    title = f'{mode}: ours against the published formulation in float32'
    return Table(title, ('arch', *(column.header for column in columns)), tuple(rows))


def _speed_column(header: str, pick: Callable[[GroupResult], Run | None], named: bool = False) -> Column:
    """`named`: with the form and the way of the run that was picked."""

    def ratio(group: GroupResult) -> Spread | None:
        run = pick(group)
        return group.speed(run) if run else None

    def cell(group: GroupResult) -> str:
        run = pick(group)
        return words(times(ratio(group)), *((run.entry.subject.form, run.entry.way) if named and run else ()))

    return Column(header, cell, lambda group: found.median if (found := ratio(group)) else None)


def _memory_column(header: str, kind: str, form: str = 'ours') -> Column:
    def ratio(group: GroupResult) -> float | None:
        return memory_ratio(group.fastest('fp32', form), group.baseline, kind)

    return Column(header, lambda group: times(ratio(group)), ratio)


def _two_sizes(group: GroupResult, kind: str) -> str:
    theirs, ours = (mib(run, kind) for run in (group.baseline, group.fastest('fp32', 'ours')))
    return f'{theirs}, {ours}' if NOTHING not in (theirs, ours) else NOTHING


def _worst_error(group: GroupResult, precision: str, name: str) -> str:
    found = [getattr(run, name) for run in group.pick(precision=precision)]
    return error(max((value for value in found if value is not None), default=None))


def _mean(column: Column, groups: Sequence[GroupResult]) -> str:
    found = [value for group in groups if (value := column.ratio(group))] if column.ratio else []
    return times(geometric_mean(found)) if found else ''


def _side_by_side(results: Results, group: GroupResult) -> Table:
    header = ['model', 'form', 'ms', 'speed']
    header += [f'{kind}{what}' for kind in ('peak', 'saved') for what in (', MiB', ': ratio')]
    rows = []
    for run in group.runs:
        cells = [run.entry.subject.name, run.entry.subject.form, ms(run), times(group.speed(run))]
        for kind in ('peak', 'saved'):
            cells += [mib(run, kind), times(memory_ratio(run, group.baseline, kind))]
        rows.append((*cells, floor(results, run), error(run.error)))
    return Table(f'{group.title}: beside {group.baseline.entry.subject.name}', (*header, 'floor', 'error'), tuple(rows))


def _growth(results: Results) -> Table:
    rows = []
    for group in results.groups:
        for run in group.runs:
            entry, speed = run.entry, group.speed(run)
            slower = Spread(1 / speed.median, 1 / speed.high, 1 / speed.low) if speed else None
            memory = memory_ratio(run, group.baseline, 'peak')
            per_pixel = None if memory is None else memory * group.baseline.entry.pixels / entry.pixels
            what = (entry.subject.name, entry.subject.form, entry.mode, words(entry.precision, entry.way), pixels(entry.size))
            rows.append((*what, ms(run), times(slower), times(per_pixel), floor(results, run), error(run.error)))
    header = ('arch', 'form', 'mode', 'precision', 'size', 'ms', 'time per pixel', 'memory per pixel', 'floor', 'error')
    return Table('growth with the image, relative to the smallest size', header, tuple(rows))

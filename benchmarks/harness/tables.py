"""Tables of a measurement, with ratios to the baseline beside every time, and the texts of their cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.harness.measure import GroupResult, Results, Run
from benchmarks.harness.timing import Spread, geometric_mean, ratios

EMPTY = '-'
LOW_PRECISIONS = ('tf32', 'bf16', 'fp16')


@dataclass(frozen=True)
class Table:
    """Cells as they are printed; the first column is a name."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Column:
    """A column of a table with a row per group: its cell, and the ratio whose geometric mean is in the last row."""

    header: str
    cell: Callable[[GroupResult], str]
    ratio: Callable[[GroupResult], float | None] | None = None


def tables(results: Results) -> list[Table]:
    """All tables of a suite, the main one first."""
    if results.settings.suite == 'reference':
        found = [_reference_table(results, mode) for mode in results.settings.modes]
    elif results.settings.suite == 'growth':
        found = [_growth_table(results)]
    else:
        found = [_side_by_side(results, group) for group in results.groups]
    return [without_empty(table) for table in found if table.rows]


def _reference_table(results: Results, mode: str) -> Table:
    groups = [group for group in results.groups if group.baseline.entry.mode == mode]
    columns = [
        Column('size', lambda group: size_text(group.baseline.entry.size)),
        Column('reference, ms', lambda group: ms_text(group.baseline)),
    ]
    for form in results.settings.forms:
        fastest = partial(GroupResult.fastest, precision='fp32', form=form)
        columns.append(Column(f'{form}, ms', lambda group, fastest=fastest: ms_text(fastest(group))))
        columns.append(_speed_column(f'{form}: speed', fastest))
    for precision in LOW_PRECISIONS:
        columns.append(_speed_column(f'{precision}: speed', partial(GroupResult.fastest, precision=precision), named=True))
    for statistic in ('saved', 'peak'):
        columns.append(Column(f'{statistic}: reference, mmfreq, MiB', partial(_two_sizes, statistic=statistic)))
        columns.append(_memory_column(f'{statistic}: ratio', statistic))
    columns += [
        _memory_column(f'{statistic}: ratio of memory_efficient', statistic, 'memory_efficient')
        for statistic in ('retained', 'peak')
    ]
    columns.append(Column('utilization', lambda group: utilization_text(results, group.fastest('fp32'))))
    for precision in ('fp32', *LOW_PRECISIONS):
        columns.append(Column(f'error {precision}', partial(_worst_error, precision=precision, name='error')))
    columns.append(Column('error of gradients', partial(_worst_error, precision='fp32', name='gradient_error')))
    rows = [(group.baseline.entry.model.name, *(column.cell(group) for column in columns)) for group in groups]
    if len(rows) > 1:
        rows.append(('geometric mean', *(_mean(column, groups) for column in columns)))
    title = f'{mode}: mmfreq against the reference implementation in float32'
    return Table(title, ('arch', *(column.header for column in columns)), tuple(rows))


def _speed_column(header: str, pick: Callable[[GroupResult], Run | None], named: bool = False) -> Column:
    """`named`: add the form and the conversion of the picked run."""

    def ratio(group: GroupResult) -> Spread | None:
        run = pick(group)
        return group.speed(run) if run else None

    def cell(group: GroupResult) -> str:
        run = pick(group)
        return joined(ratio_text(ratio(group)), *((run.entry.model.form, run.entry.conversion) if named and run else ()))

    return Column(header, cell, lambda group: found.median if (found := ratio(group)) else None)


def _memory_column(header: str, statistic: str, form: str = 'mmfreq') -> Column:
    def ratio(group: GroupResult) -> float | None:
        return memory_ratio(group.fastest('fp32', form), group.baseline, statistic)

    return Column(header, lambda group: ratio_text(ratio(group)), ratio)


def _two_sizes(group: GroupResult, statistic: str) -> str:
    sizes = [mib_text(run, statistic) for run in (group.baseline, group.fastest('fp32', 'mmfreq'))]
    return EMPTY if EMPTY in sizes else ', '.join(sizes)


def _worst_error(group: GroupResult, precision: str, name: str) -> str:
    found = [getattr(run, name) for run in group.pick(precision=precision)]
    return error_text(max((value for value in found if value is not None), default=None))


def _mean(column: Column, groups: Sequence[GroupResult]) -> str:
    found = [value for group in groups if (value := column.ratio(group))] if column.ratio else []
    return ratio_text(geometric_mean(found)) if found else ''


def _side_by_side(results: Results, group: GroupResult) -> Table:
    header = ['model', 'form', 'ms', 'speed']
    header += [f'{statistic}{unit}' for statistic in ('peak', 'saved') for unit in (', MiB', ': ratio')]
    rows = []
    for run in group.runs:
        cells = [run.entry.model.name, run.entry.model.form, ms_text(run), ratio_text(group.speed(run))]
        for statistic in ('peak', 'saved'):
            cells += [mib_text(run, statistic), ratio_text(memory_ratio(run, group.baseline, statistic))]
        rows.append((*cells, utilization_text(results, run), error_text(run.error)))
    return Table(f'{group.title}: relative to {group.baseline.entry.model.name}', (*header, 'utilization', 'error'), tuple(rows))


def _growth_table(results: Results) -> Table:
    rows, on_cpu = [], results.settings.device == 'cpu'
    for group in results.groups:
        for run in group.runs:
            entry, scale = run.entry, group.baseline.entry.pixels / run.entry.pixels
            memory = memory_ratio(run, group.baseline, 'peak')
            cells = {
                'arch': entry.model.name,
                'form': entry.model.form,
                'mode': entry.mode,
                'precision': joined(entry.precision, entry.conversion),
                'size': size_text(entry.size),
                'ms': ms_text(run),
                'time per pixel': _growth(run.seconds, group.baseline.seconds, scale),
                'CPU time per pixel': _growth(run.cpu_seconds, group.baseline.cpu_seconds, scale) if on_cpu else EMPTY,
                'peak, MiB': mib_text(run, 'peak'),
                'memory per pixel': ratio_text(None if memory is None else memory * scale),
                'utilization': utilization_text(results, run),
                'error': error_text(run.error),
            }
            rows.append(tuple(cells.values()))
    return Table('growth with the image size, relative to the smallest size', tuple(cells), tuple(rows))


def _growth(seconds: Sequence[float], smallest: Sequence[float], scale: float) -> str:
    """Time per pixel relative to the smallest size, whose number of pixels is `scale` times that of the size."""
    return ratio_text(ratios([scale * each for each in seconds], smallest)) if seconds and smallest else EMPTY


def without_empty(table: Table) -> Table:
    """The table without empty columns."""
    keep = [i for i in range(len(table.header)) if any(row[i] not in ('', EMPTY) for row in table.rows)]
    header, *rows = (tuple(cells[i] for i in keep) for cells in (table.header, *table.rows))
    return Table(table.title, header, tuple(rows))


def size_text(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def joined(*parts: str) -> str:
    return ' '.join(filter(None, parts))


def ratio_text(ratio: Spread | float | None) -> str:
    """A ratio, with its quartiles if it has any: '1.62x [1.58, 1.66]'."""
    if isinstance(ratio, Spread):
        return f'{ratio.median:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]'
    return EMPTY if ratio is None else f'{ratio:.2f}x'


def ms_text(run: Run | None) -> str:
    return f'{1e3 * run.spread.median:.4g}' if run and run.seconds else EMPTY


def mib_text(run: Run | None, statistic: str) -> str:
    """Memory in MiB; `statistic` is 'peak', 'saved' or 'retained'."""
    size = getattr(run.memory, statistic) if run and run.memory else None
    return EMPTY if size is None else f'{size / 2**20:.4g}'


def memory_ratio(run: Run | None, over: Run, statistic: str) -> float | None:
    """Memory of `run` relative to another run; None if one of them was not measured."""
    size, base = (getattr(each.memory, statistic) if each and each.memory else None for each in (run, over))
    return size / base if size is not None and base else None


def utilization_text(results: Results, run: Run | None) -> str:
    return f'{100 * results.utilization(run):.0f} %' if run and run.seconds else EMPTY


def error_text(value: float | None) -> str:
    return EMPTY if value is None else f'{value:.0e}'

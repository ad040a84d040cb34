"""What stands in the cells of a table, and the table itself."""

from dataclasses import dataclass

from mmfreq.analysis.benchmark.results import Results, Run
from mmfreq.analysis.benchmark.timing import Spread

NOTHING = '-'


@dataclass(frozen=True)
class Table:
    """Cells as they are printed; the first column holds words."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def without_empty(table: Table) -> Table:
    """The table without the columns in which nothing stands."""
    keep = [i for i in range(len(table.header)) if any(row[i] not in ('', NOTHING) for row in table.rows)]
    header, *rows = (tuple(cells[i] for i in keep) for cells in (table.header, *table.rows))
    return Table(table.title, header, tuple(rows))


def pixels(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def words(*parts: str) -> str:
    return ' '.join(filter(None, parts))


def times(ratio: Spread | float | None) -> str:
    """A ratio, with its quartiles where it has some: '1.62x [1.58, 1.66]'."""
    if isinstance(ratio, Spread):
        return f'{ratio.median:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]'
    return NOTHING if ratio is None else f'{ratio:.2f}x'


def ms(run: Run | None) -> str:
    return f'{1e3 * run.spread.median:.4g}' if run and run.seconds else NOTHING


def mib(run: Run | None, kind: str) -> str:
    """Memory of a kind ('peak', 'saved' or 'kept')."""
    size = getattr(run.memory, kind) if run and run.memory else None
    return NOTHING if size is None else f'{size / 2**20:.4g}'


def memory_ratio(run: Run | None, over: Run, kind: str) -> float | None:
    """Memory of `run` over that of another, where both have it."""
    ours, theirs = (getattr(each.memory, kind) if each and each.memory else None for each in (run, over))
    return ours / theirs if ours is not None and theirs else None


def floor(results: Results, run: Run | None) -> str:
    return f'{100 * results.floor(run):.0f} %' if run and run.seconds else NOTHING


def error(value: float | None) -> str:
    return NOTHING if value is None else f'{value:.0e}'

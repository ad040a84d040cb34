"""What stands in the cells of a table, and the table itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

from benchmarks.harness.entries import REFERENCE, SUITES
from benchmarks.harness.measure import GroupResult, Results, Run
from benchmarks.harness.timing import Spread, geometric_mean

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


def lower_bound(results: Results, run: Run | None) -> str:
    return f'{100 * results.floor(run):.0f} %' if run and run.seconds else NOTHING


def error(value: float | None) -> str:
    return NOTHING if value is None else f'{value:.0e}'


# The targets of each suite, and whether they are reached.


LOWEST_SPEED = 1.0  # of ours, against the published formulation
KEPT = 0.5  # by memory_efficient, against the published formulation
LEVER_SPEED, LEVER_MEMORY = 1.1, 0.75  # against ours, somewhere: what a lever has to win to stay
GROWTH = 1.15  # of the time per pixel
# "near ConvFormer's, far better than attention's" has no numbers in the paper; these are ours
NEAR, FAR, HIGH_RESOLUTION = 1.25, 2.0, 1024
CONVOLUTION, ATTENTION = 'convformer_s18', 'caformer_s18'
CLAIMED = ('dfformer', 'cdfformer')  # families of which the paper claims it


@dataclass(frozen=True)
class Verdict:
    """A measured ratio beside its target, which it has to reach from below (`at_least`) or from above."""

    what: str
    value: float
    target: float
    at_least: bool = True

    @property
    def reached(self) -> bool:
        return self.value >= self.target if self.at_least else self.value <= self.target

    def __str__(self) -> str:
        relation = 'at least' if self.at_least else 'at most'
        return f'{self.what}: {self.value:.2f}x, target {relation} {self.target:g}x: {"reached" if self.reached else "missed"}'


def verdicts(results: Results) -> list[Verdict]:
    """Those of the suite's targets that can be judged by what was measured."""
    judge = {'published': _published, 'growth': _growth}.get(results.settings.suite, _claims)
    return list(judge(results))


def _published(results: Results) -> Iterator[Verdict]:
    for size in results.settings.sizes:
        groups = [group for group in results.groups if group.baseline.entry.size == size]
        inference, training = ([g for g in groups if g.baseline.entry.mode == mode] for mode in ('inference', 'training'))
        at = f' at {pixels(size)}'
        yield from _mean_and_lowest(f'inference, ours{at}', _speeds(inference, 'ours'))
        yield from _mean_and_lowest(f'forward and backward, ours{at}', _speeds(training, 'ours'))
        if gains := _speeds(inference, 'optimized', over='ours'):
            name = max(gains, key=gains.get)
            yield Verdict(f'inference, optimized over ours{at}: highest ({name})', gains[name], LEVER_SPEED)
        kept = _kept(training, 'published')
        if kept:
            what = f'kept for backward by memory_efficient{at}: geometric mean of {len(kept)}'
            yield Verdict(what, geometric_mean(kept.values()), KEPT, at_least=False)
        if gains := _kept(training, 'ours'):
            name = min(gains, key=gains.get)
            what = f'kept for backward by memory_efficient over ours{at}: lowest ({name})'
            yield Verdict(what, gains[name], LEVER_MEMORY, at_least=False)


def _speeds(groups: list[GroupResult], form: str, over: str = 'published') -> dict[str, float]:
    """Of a form in float32 over another, by arch."""
    pairs = {group.baseline.entry.subject.name: (group, *(group.fastest('fp32', f) for f in (form, over))) for group in groups}
    speeds = {name: group.speed(run, base) for name, (group, run, base) in pairs.items() if run and base}
    return {name: speed.median for name, speed in speeds.items() if speed}


def _kept(groups: list[GroupResult], over: str) -> dict[str, float]:
    """Memory that `memory_efficient` keeps over that of another form, by arch."""
    found = {
        group.baseline.entry.subject.name: memory_ratio(
            group.fastest('fp32', 'memory_efficient'), group.fastest('fp32', over), 'kept'
        )
        for group in groups
    }
    return {name: ratio for name, ratio in found.items() if ratio}


def _mean_and_lowest(what: str, speeds: dict[str, float]) -> Iterator[Verdict]:
    if speeds:
        yield Verdict(f'{what}: geometric mean of {len(speeds)}', geometric_mean(speeds.values()), LOWEST_SPEED)
        name = min(speeds, key=speeds.get)
        yield Verdict(f'{what}: lowest ({name})', speeds[name], LOWEST_SPEED)


def _growth(results: Results) -> Iterator[Verdict]:
    for group in results.groups:
        speed = group.speed(group.runs[-1])
        if speed:
            sizes = ' to '.join(pixels(run.entry.size) for run in (group.baseline, group.runs[-1]))
            yield Verdict(f'{group.title}: time per pixel from {sizes}', 1 / speed.median, GROWTH, at_least=False)


def _claims(results: Results) -> Iterator[Verdict]:
    """The DFFormer paper's: throughput and memory near ConvFormer's, far better than CAFormer's at high resolution."""
    for group in results.groups:
        peers = {name: next(iter(group.pick(name)), None) for name in (CONVOLUTION, ATTENTION)}
        for run in group.runs:
            name, form = run.entry.subject.name, run.entry.subject.form
            if run.seconds and form not in REFERENCE and name.startswith(CLAIMED):
                yield from _claims_of(group, run, f'{group.title}: {name}, {form}', **peers)


def _claims_of(group: GroupResult, run: Run, what: str, convformer_s18: Run | None, caformer_s18: Run | None) -> Iterator[Verdict]:
    kind = 'saved' if run.entry.mode == 'training' else 'peak'
    if convformer_s18:
        yield Verdict(f"{what}: speed over {CONVOLUTION}'s", group.speed(run, convformer_s18).median, 1 / NEAR)
        yield Verdict(f"{what}: {kind} memory over {CONVOLUTION}'s", memory_ratio(run, convformer_s18, kind), NEAR, at_least=False)
    if caformer_s18 and max(run.entry.size) >= HIGH_RESOLUTION:
        yield Verdict(f"{what}: speed over {ATTENTION}'s", group.speed(run, caformer_s18).median, FAR)
        yield Verdict(f"{what}: {kind} memory over {ATTENTION}'s", memory_ratio(run, caformer_s18, kind), 1 / FAR, at_least=False)


# Tables of ratios. A time stands only where a ratio to the baseline and to the floor stands beside it.


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
        found = [_growth_table(results)]
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
    columns.append(Column('floor', lambda group: lower_bound(results, group.fastest('fp32'))))
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
        rows.append((*cells, lower_bound(results, run), error(run.error)))
    return Table(f'{group.title}: beside {group.baseline.entry.subject.name}', (*header, 'floor', 'error'), tuple(rows))


def _growth_table(results: Results) -> Table:
    rows = []
    for group in results.groups:
        for run in group.runs:
            entry, speed = run.entry, group.speed(run)
            slower = Spread(1 / speed.median, 1 / speed.high, 1 / speed.low) if speed else None
            memory = memory_ratio(run, group.baseline, 'peak')
            per_pixel = None if memory is None else memory * group.baseline.entry.pixels / entry.pixels
            what = (entry.subject.name, entry.subject.form, entry.mode, words(entry.precision, entry.way), pixels(entry.size))
            rows.append((*what, ms(run), times(slower), times(per_pixel), lower_bound(results, run), error(run.error)))
    header = ('arch', 'form', 'mode', 'precision', 'size', 'ms', 'time per pixel', 'memory per pixel', 'floor', 'error')
    return Table('growth with the image, relative to the smallest size', header, tuple(rows))


# The page of a measurement: Markdown with the command, the machine in words, the tables, the targets and what the words mean.


HIDDEN = 1.25  # times the saved bytes: what is kept beyond that is more than outputs
QUICK = 'A quick run: small images, few rounds. It shows that the tool works; its numbers are no measurement.'
MEANINGS = (
    'speed: seconds of the baseline over seconds of this, round by round: median [quartiles]; above 1 is faster.',
    'peak: most memory at one time beyond weights and input, as the allocator gave it out; saved: what autograd keeps for the '
    'backward pass; ratios of memory are to the baseline, below 1 is less.',
    'floor: multiply-adds of convolutions and matrix products, at the rate of large matrix products on this machine, as a share of '
    'the measured time (three times as many in training); Fourier transforms count nothing.',
    'error: norm of the difference to the published formulation with the same weights, in float32 on a CPU, over its norm.',
    'A training step here is forward and backward in training mode, without loss and optimizer.',
)


def command_words(program: str, arguments: Sequence[str]) -> str:
    """The command as it can be shown: of absolute paths the names alone."""
    shown = (Path(argument).name if Path(argument).is_absolute() else argument for argument in arguments)
    return ' '.join(('python', program, *shown))


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def markdown(table: Table) -> str:
    lines = (table.header, ('---',) * len(table.header), *table.rows)
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def remarks(results: Results) -> list[str]:
    """Settings, matrix rates, troubles, and memory that autograd's hooks did not see, a sentence each."""
    settings = results.settings
    rates = (
        f'{precision} {2e-9 * before:.0f} before and {2e-9 * after:.0f} after'
        for precision, (before, after) in results.rates.items()
    )
    said = [
        f'{settings.repeats} paired rounds in alternating order, batch {settings.batch}.',
        f'Matrix rates in GFLOP/s: {"; ".join(rates)}.',
    ]
    if settings.alone and settings.device == 'cpu':
        said.append('Each entry ran in a process of its own, with its own allocator of memory; the processes took turns.')
    runs = [run for group in results.groups for run in group.runs]
    said += [f'Not measured: {run.entry.label}, {run.entry.mode}: {run.trouble}.' for run in runs if run.trouble]
    hidden = [run for run in runs if run.memory and run.memory.saved and run.memory.kept > HIDDEN * run.memory.saved]
    return said + [
        f'{run.entry.label} keeps {run.memory.kept / 2**20:.4g} MiB for the backward pass, outputs included, where autograd saves '
        f'{run.memory.saved / 2**20:.4g}.'
        for run in hidden
    ]


def page(results: Results, command: str, quick: bool = False, picture: str | None = None) -> str:
    """Markdown.

    Args:
        picture: name of the plot beside the page.
    """
    suite = results.settings.suite
    parts = [f'# Benchmark: {suite}', sentence(SUITES[suite].question), f'```bash\n{command}\n```']
    parts += [QUICK] * quick
    parts.append(f'{date.today()}. {sentence(results.machine)}. ' + ' '.join(remarks(results)))
    for table in tables(results):
        parts += [f'**{sentence(table.title)}**', markdown(table)]
    if picture:
        parts.append(f'![time and memory against resolution]({picture})')
    if judged := verdicts(results):
        parts.append('\n'.join(f'- {verdict}' for verdict in judged))
    parts.append('\n'.join(f'- {meaning}' for meaning in MEANINGS))
    return '\n\n'.join(parts) + '\n'


def tuning_page(table: Table, command: str, machine: str) -> str:
    """Markdown of a table of `tune.tuning_table`."""
    parts = [f'# {sentence(table.title)}', f'```bash\n{command}\n```', f'{date.today()}. {sentence(machine)}.', markdown(table)]
    return '\n\n'.join([*parts, 'Forward alone, paired rounds, median [quartiles] of the ratios; above 1 is faster.']) + '\n'

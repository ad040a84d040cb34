"""The page of a measurement: Markdown with the command, the machine in words, the tables, the targets and what the words mean."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from mmfreq.analysis.benchmark.cells import Table
from mmfreq.analysis.benchmark.results import Results
from mmfreq.analysis.benchmark.settings import SUITES
from mmfreq.analysis.benchmark.tables import tables
from mmfreq.analysis.benchmark.targets import verdicts

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

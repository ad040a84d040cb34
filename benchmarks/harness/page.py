"""The page of a measurement in Markdown: command, hardware, tables, targets and a glossary."""

import os
import shlex
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from benchmarks.harness.measure import Results
from benchmarks.harness.suites import SUITES
from benchmarks.harness.tables import Table, tables
from benchmarks.harness.targets import verdicts

HIDDEN_RATIO = 1.25  # retained over saved bytes; above it, more than the outputs is hidden from autograd's hooks
QUICK = 'A quick run with small images and few rounds: it shows that the tool works and is not a measurement.'
GLOSSARY = (
    'speed: seconds of the baseline over seconds of the form, round by round: median [quartiles]; above 1 is faster.',
    'peak: largest memory of the allocator beyond weights and input; saved: what autograd saves for backward; retained: what the '
    'allocator holds after the forward pass, outputs included; ratios are relative to the baseline, below 1 is less.',
    'utilization: time of the multiply-adds of convolutions and matrix products, at the rate of large matrix products on this '
    'hardware, as a share of the measured time (training counts three times inference); Fourier transforms do not count.',
    'CPU time: of all threads of the process; on a GPU it is not measured.',
    'error: norm of the difference to the reference implementation with the same weights, in float32 on a CPU, over its norm.',
    'A training step is forward and backward in training mode, without loss and optimizer.',
)


def command_words(program: str, arguments: Sequence[str]) -> str:
    """The command for the page; absolute paths are shortened to their names."""
    shown = (Path(argument).name if Path(argument).is_absolute() else argument for argument in arguments)
    return shlex.join(('python', program, *shown))


def link(target: Path, page: Path | None) -> str:
    """Path of a file relative to a page, or to the current folder."""
    return Path(os.path.relpath(target, page.parent if page else '.')).as_posix()


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def markdown(table: Table) -> str:
    lines = (table.header, ('---',) * len(table.header), *table.rows)
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines)


def notes(results: Results) -> list[str]:
    """Sentences about settings, matrix rates, failures, and memory that autograd's hooks do not see."""
    settings = results.settings
    rates = (
        f'{precision} {2e-9 * before:.0f} before and {2e-9 * after:.0f} after'
        for precision, (before, after) in results.rates.items()
    )
    sentences = [
        f'{settings.repeats} paired rounds in alternating order, batch {settings.batch}.',
        f'Matrix rates in GFLOP/s: {"; ".join(rates)}.',
    ]
    if settings.isolated and settings.device == 'cpu':
        sentences.append('Each entry ran in its own process, with its own memory allocator; the processes took turns.')
    runs = [run for group in results.groups for run in group.runs]
    sentences += [f'Not measured: {run.entry.label}, {run.entry.mode}: {run.failure}.' for run in runs if run.failure]
    hidden = [run for run in runs if run.memory and run.memory.saved and run.memory.retained > HIDDEN_RATIO * run.memory.saved]
    return sentences + [
        f'{run.entry.label} retains {run.memory.retained / 2**20:.4g} MiB for backward, outputs included; autograd saves '
        f'{run.memory.saved / 2**20:.4g} MiB.'
        for run in hidden
    ]


def page(results: Results, command: str, quick: bool = False, plot: str | None = None) -> str:
    """The page of a measurement; `plot` is the path of an image, relative to the page."""
    suite = results.settings.suite
    parts = [f'# Benchmark: {suite}', sentence(SUITES[suite].question), f'```bash\n{command}\n```']
    parts += [QUICK] * quick
    parts.append(f'{date.today()}. {sentence(results.hardware)}. ' + ' '.join(notes(results)))
    for table in tables(results):
        parts += [f'**{sentence(table.title)}**', markdown(table)]
    if plot:
        parts.append(f'![time and memory against resolution]({plot})')
    if decided := verdicts(results):
        parts.append('\n'.join(f'- {verdict}' for verdict in decided))
    parts.append('\n'.join(f'- {term}' for term in GLOSSARY))
    return '\n\n'.join(parts) + '\n'


def tuning_page(table: Table, command: str, hardware: str) -> str:
    """The page of a table of `tune.tuning_table`."""
    parts = [f'# {sentence(table.title)}', f'```bash\n{command}\n```', f'{date.today()}. {sentence(hardware)}.', markdown(table)]
    return '\n\n'.join([*parts, 'Forward only, paired rounds, median [quartiles] of the ratios; above 1 is faster.']) + '\n'

"""Measuring a plan: the same outputs first, then memory, then paired rounds."""

import gc
from collections.abc import Callable, Iterable
from contextlib import contextmanager

import torch

from mmfreq.analysis.benchmark.agreement import References
from mmfreq.analysis.benchmark.alone import workers
from mmfreq.analysis.benchmark.floor import PASSES, matrix_rate
from mmfreq.analysis.benchmark.machine import check_device, free_bytes, machine_words
from mmfreq.analysis.benchmark.memory import memory_of
from mmfreq.analysis.benchmark.precision import Call, images_of, made
from mmfreq.analysis.benchmark.results import GroupResult, Results, Run
from mmfreq.analysis.benchmark.settings import Settings
from mmfreq.analysis.benchmark.subjects import Entry, Group
from mmfreq.analysis.benchmark.timing import paired_rounds, timed_rounds
from mmfreq.analysis.complexity import count

SHARE_OF_FREE = 0.3  # of memory that processes taking turns may keep together: their heaps are larger than what they use
TRIAL, TRIED_ABOVE = (256, 256), 1024 * 1024  # pixels: what is larger is tried small first, to see whether it will fit


def measure(groups: Iterable[Group], settings: Settings, say: Callable[[str], object] = print) -> Results:
    """Measure every entry of the groups, group by group.

    Args:
        say: is told what is being done.

    Raises:
        OutputsDifferError: two forms of one model disagree in float32; their group has not been timed then.
        ValueError: no such device.
    """
    groups, device = list(groups), torch.device(settings.device)
    check_device(device)
    precisions = sorted({entry.precision for group in groups for entry in group.entries})
    words = machine_words(device, torch.get_num_threads())
    say(f'{words}; {len(groups)} groups of entries')
    before = {precision: matrix_rate(precision, device) for precision in precisions}
    costs: dict[tuple, int] = {}
    found = []
    for number, group in enumerate(groups, 1):
        say(f'{number}/{len(groups)}  {group.title}')
        found.append(measure_group(group, settings, device, costs))
        gc.collect()
    after = {precision: matrix_rate(precision, device) for precision in precisions}
    return Results(settings, words, found, {precision: (before[precision], after[precision]) for precision in precisions})


def measure_group(group: Group, settings: Settings, device: torch.device, costs: dict[tuple, int]) -> GroupResult:
    """Measure the entries of one group.

    Args:
        costs: multiply-adds of an image by (name, size), as far as they are known; filled in.
    """
    runs = [Run(entry, macs=_multiply_adds(entry, costs)) for entry in group.entries]
    models: dict[tuple, torch.nn.Module] = {}
    references = References(group.entries)
    calls = {}
    for run in runs:
        with _trouble_noted(run):
            call = Call(_model(run.entry, models, device), images_of(run.entry.size, run.entry.batch).to(device), run.entry)
            run.trouble = _too_large(call)
            if run.trouble:
                continue
            run.error, run.gradient_error = references.errors(call)
            call()
            run.memory = memory_of(call)
            calls[run.entry.label] = call
    del references
    peaks = sum(run.memory.peak for run in runs if run.memory and not run.trouble)
    rounds = _rounds(calls, settings, device, peaks)
    for run in runs:
        run.seconds = rounds.get(run.entry.label, [])
    return GroupResult(group.title, runs)


def _rounds(calls: dict[str, Call], settings: Settings, device: torch.device, peaks: int) -> dict[str, list[float]]:
    """`peaks`: memory of all calls together."""
    if not settings.alone or device.type != 'cpu':
        return paired_rounds(calls, settings.repeats, device, settings.at_least)
    entries = [call.entry for call in calls.values()]
    calls.clear()  # these models are not needed any more
    free = free_bytes()
    with workers(entries, modest=free is not None and peaks > SHARE_OF_FREE * free) as timers:
        return timed_rounds(timers, settings.repeats, settings.at_least)


def _model(entry: Entry, models: dict[tuple, torch.nn.Module], device: torch.device) -> torch.nn.Module:
    """Made once for all entries that can share it: those of other sizes, and those that autocast."""
    key = (entry.subject, entry.precision if entry.way == 'converted' else '')
    if key not in models:
        models[key] = made(entry, device)
    return models[key]


def _multiply_adds(entry: Entry, costs: dict[tuple, int]) -> int:
    key = (entry.subject.name, entry.size)
    if key not in costs:
        costs[key] = count(entry.subject.counted(), entry.size).macs.conv_matmul
    return costs[key] * entry.batch * PASSES[entry.mode]


def _too_large(call: Call) -> str:
    """Why the call cannot be run on this CPU, or ''. A small image tells; a process that takes too much is just killed."""
    if call.device.type != 'cpu' or call.entry.pixels < TRIED_ABOVE:
        return ''
    small = Call(call.model, images_of(TRIAL, 1), call.entry)
    small()
    peak = memory_of(small).peak * call.entry.pixels / (TRIAL[0] * TRIAL[1])
    free = free_bytes()
    return f'needs about {peak / 2**30:.0f} GiB, {free / 2**30:.0f} are free' if free is not None and peak > free else ''


@contextmanager
def _trouble_noted(run: Run):
    """What a low precision cannot do, or what does not fit on the device, is a note in the table; other errors are errors."""
    try:
        yield
    except torch.OutOfMemoryError:
        run.trouble = 'out of memory'
    except RuntimeError as error:
        if run.entry.precision == 'fp32':
            raise
        run.trouble = (str(error).strip() or type(error).__name__).splitlines()[0]
    if run.trouble and torch.cuda.is_available():
        torch.cuda.empty_cache()

"""Measuring groups of entries: errors of outputs, then memory, then time in paired rounds."""

import gc
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch

from benchmarks.harness.entries import EXTERNAL, Call, Entry, Group, build_model, random_images
from benchmarks.harness.memory import Memory, memory_of
from benchmarks.harness.references import ReferenceModels
from benchmarks.harness.suites import Settings
from benchmarks.harness.timing import Elapsed, Spread, matrix_rate, ratios, run_rounds, timers_of, workers
from mmfreq.analysis.flops import count
from mmfreq.analysis.latency import check_device, describe_hardware, free_bytes

# Training counts three times inference: forward, gradient of the input, gradient of the weights.
PASSES = {'inference': 1, 'training': 3}
FREE_MEMORY_SHARE = 0.3  # that the waiting processes may use together; their heaps are larger than their peaks
TRIAL, TRIAL_ABOVE = (256, 256), 1024 * 1024  # pixels: larger calls are tried at the size TRIAL first


@dataclass
class Run:
    """The measurements of one entry.

    Attributes:
        seconds: of one call, a value per round; empty if the entry could not be run.
        error, gradient_error: relative errors of outputs and of the parameters' gradients; None without a reference.
        macs: multiply-adds of one call.
        failure: why the entry could not be run.
        cpu_seconds: CPU time of all threads in the calls of `seconds`.
    """

    entry: Entry
    seconds: list[float] = field(default_factory=list)
    memory: Memory | None = None
    error: float | None = None
    gradient_error: float | None = None
    macs: int = 0
    failure: str = ''
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def spread(self) -> Spread:
        """Seconds of one call."""
        return Spread.of(self.seconds)

    def as_dict(self) -> dict:
        entry = self.entry
        data = {'label': entry.label, 'name': entry.model.name, 'form': entry.model.form, 'size': entry.size}
        data |= {'mode': entry.mode, 'precision': entry.precision, 'conversion': entry.conversion, 'batch': entry.batch}
        data |= {'median_seconds': self.spread.median if self.seconds else None}
        data |= {'seconds': self.seconds, 'cpu_seconds': self.cpu_seconds}
        return data | {
            'memory_bytes': asdict(self.memory) if self.memory else None,
            'relative_error': self.error,
            'relative_error_of_gradients': self.gradient_error,
            'multiply_adds': self.macs,
            'failure': self.failure,
        }


@dataclass
class GroupResult:
    """The runs of one group, measured in the same rounds. The first one is the baseline."""

    title: str
    runs: list[Run]

    @property
    def baseline(self) -> Run:
        return self.runs[0]

    def speed(self, run: Run, over: Run | None = None) -> Spread | None:
        """Speed per pixel of `run` relative to `over` (default: the baseline); None if one of them has no times."""
        over = over or self.baseline
        if not run.seconds or not over.seconds:
            return None
        scale = run.entry.pixels / over.entry.pixels
        return ratios([scale * seconds for seconds in over.seconds], run.seconds)

    def pick(self, name: str | None = None, form: str | None = None, precision: str | None = None) -> list[Run]:
        """The timed runs with this name, form and precision; None matches all."""
        wanted = {'name': name, 'form': form, 'precision': precision}
        return [
            run
            for run in self.runs
            if run.seconds
            and all(
                value is None or value == (run.entry.precision if key == 'precision' else getattr(run.entry.model, key))
                for key, value in wanted.items()
            )
        ]

    def fastest(self, precision: str, form: str | None = None) -> Run | None:
        """The run with the smallest median among the forms of mmfreq, or of one form."""
        runs = [run for run in self.pick(form=form, precision=precision) if form or run.entry.model.form not in EXTERNAL]
        return min(runs, key=lambda run: run.spread.median, default=None)

    def as_dict(self) -> dict:
        runs = []
        for run in self.runs:
            speed = self.speed(run)
            runs.append({**run.as_dict(), 'speed_over_baseline': asdict(speed) if speed else None})
        return {'title': self.title, 'baseline': self.baseline.entry.label, 'runs': runs}


@dataclass
class Results:
    """All measurements of a benchmark.

    Attributes:
        hardware: description of the hardware.
        rates: precision -> multiply-adds per second of large matrix products, before and after the measurements.
    """

    settings: Settings
    hardware: str
    groups: list[GroupResult]
    rates: dict[str, tuple[float, float]]

    def utilization(self, run: Run) -> float:
        """The share of the median time that the multiply-adds of convolutions and matrix products take at the better matrix rate.

        Fourier transforms do not count: an FFT has next to no multiply-adds.
        """
        return run.macs / max(self.rates[run.entry.precision]) / run.spread.median

    def as_dict(self) -> dict:
        return {
            'settings': asdict(self.settings),
            'hardware': self.hardware,
            'matrix_rates': self.rates,
            'groups': [group.as_dict() for group in self.groups],
        }


def measure(groups: Iterable[Group], settings: Settings, log: Callable[[str], object] = print) -> Results:
    """Measure every entry of the groups, group by group.

    Args:
        log: called with a line of progress.

    Raises:
        OutputsDifferError: outputs of two forms of one model differ in float32; their group is not timed.
        ValueError: there is no such device.
    """
    groups, device = list(groups), torch.device(settings.device)
    check_device(device)
    precisions = sorted({entry.precision for group in groups for entry in group.entries})
    hardware = describe_hardware(device, torch.get_num_threads())
    log(f'{hardware}; {len(groups)} groups')
    before = {precision: matrix_rate(precision, device) for precision in precisions}
    costs: dict[tuple, int] = {}
    found = []
    for number, group in enumerate(groups, 1):
        log(f'{number}/{len(groups)}  {group.title}')
        found.append(measure_group(group, settings, device, costs))
        gc.collect()
    after = {precision: matrix_rate(precision, device) for precision in precisions}
    return Results(settings, hardware, found, {precision: (before[precision], after[precision]) for precision in precisions})


def measure_group(group: Group, settings: Settings, device: torch.device, costs: dict[tuple, int]) -> GroupResult:
    """Measure the entries of one group.

    Args:
        costs: cache of (name, size) -> multiply-adds of an image.
    """
    runs = [Run(entry, macs=_multiply_adds(entry, costs)) for entry in group.entries]
    models: dict[tuple, torch.nn.Module] = {}
    references = ReferenceModels(group.entries)
    calls = {}
    for run in runs:
        with record_failure(run):
            call = Call(_model(run.entry, models, device), random_images(run.entry.size, run.entry.batch).to(device), run.entry)
            run.failure = exceeds_memory(call)
            if run.failure:
                continue
            run.error, run.gradient_error = references.errors(call)
            call()
            run.memory = memory_of(call)
            calls[run.entry.label] = call
    del references
    peaks = sum(run.memory.peak for run in runs if run.memory and not run.failure)
    rounds = _rounds(calls, settings, device, peaks)
    for run in runs:
        found = rounds.get(run.entry.label, [])
        run.seconds, run.cpu_seconds = [elapsed.wall for elapsed in found], [elapsed.cpu for elapsed in found]
    return GroupResult(group.title, runs)


def _rounds(calls: dict[str, Call], settings: Settings, device: torch.device, peaks: int) -> dict[str, list[Elapsed]]:
    """The `Elapsed` of each call per round; `peaks` is the memory of all calls together."""
    if not settings.isolated or device.type != 'cpu':
        return run_rounds(timers_of(calls, device), settings.repeats, settings.min_seconds)
    entries = [call.entry for call in calls.values()]
    calls.clear()  # frees the models of this process
    free = free_bytes()
    with workers(entries, release_memory=free is not None and peaks > FREE_MEMORY_SHARE * free) as timers:
        return run_rounds(timers, settings.repeats, settings.min_seconds)


def _model(entry: Entry, models: dict[tuple, torch.nn.Module], device: torch.device) -> torch.nn.Module:
    """The model, shared by entries that differ only in size or use autocast."""
    key = (entry.model, entry.precision if entry.conversion == 'converted' else '')
    if key not in models:
        models[key] = build_model(entry, device)
    return models[key]


def _multiply_adds(entry: Entry, costs: dict[tuple, int]) -> int:
    key = (entry.model.name, entry.size)
    if key not in costs:
        costs[key] = count(entry.model.for_counting(), entry.size).macs.conv_matmul
    return costs[key] * entry.batch * PASSES[entry.mode]


def exceeds_memory(call: Call) -> str:
    """Why the call does not fit into the memory of the CPU, or ''; estimated from a small image."""
    if call.device.type != 'cpu' or call.entry.pixels < TRIAL_ABOVE:
        return ''
    batch = min(2, call.entry.batch)  # batch norms cannot train on one map of 1x1
    small = Call(call.model, random_images(TRIAL, batch), call.entry)
    small()
    peak = memory_of(small).peak * call.entry.pixels / (batch * TRIAL[0] * TRIAL[1])
    free = free_bytes()
    return f'needs about {peak / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free' if free is not None and peak > free else ''


@contextmanager
def record_failure(run: Run):
    """Record errors of a low precision, and lack of memory, in `run.failure`; other errors are raised."""
    try:
        yield
    except torch.OutOfMemoryError:
        run.failure = 'out of memory'
    except RuntimeError as error:
        if run.entry.precision == 'fp32':
            raise
        run.failure = (str(error).strip() or type(error).__name__).splitlines()[0]
    if run.failure and torch.cuda.is_available():
        torch.cuda.empty_cache()

"""What a benchmark found: of each entry the seconds of every round, memory, error and floor."""

import gc
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.harness.entries import BASELINE, OURS, REFERENCE, Call, Entry, Group, Settings, images_of, made
from benchmarks.harness.timing import PASSES, Memory, Spread, matrix_rate, memory_of, paired_rounds, ratios, timed_rounds, workers
from mmfreq.analysis.flops import count
from mmfreq.analysis.latency import check_device, describe_hardware, free_bytes


@dataclass
class Run:
    """One entry as measured.

    Attributes:
        seconds: of one call, a value for each round; empty if it could not be run.
        error, gradient_error: of outputs and of parameters' gradients, relative to the reference; None without one.
        macs: multiply-adds of one call, for the floor.
        trouble: why it could not be run.
    """

    entry: Entry
    seconds: list[float] = field(default_factory=list)
    memory: Memory | None = None
    error: float | None = None
    gradient_error: float | None = None
    macs: int = 0
    trouble: str = ''

    @property
    def spread(self) -> Spread:
        """Seconds of one call."""
        return Spread.of(self.seconds)

    def as_dict(self) -> dict:
        entry = self.entry
        told = {'label': entry.label, 'name': entry.subject.name, 'form': entry.subject.form, 'size': entry.size}
        told |= {'mode': entry.mode, 'precision': entry.precision, 'way': entry.way, 'batch': entry.batch}
        told |= {'median_seconds': self.spread.median if self.seconds else None, 'seconds': self.seconds}
        return told | {
            'memory_bytes': asdict(self.memory) if self.memory else None,
            'relative_error': self.error,
            'relative_error_of_gradients': self.gradient_error,
            'multiply_adds': self.macs,
            'trouble': self.trouble,
        }


@dataclass
class GroupResult:
    """The runs of one group, which share their rounds. The first is the baseline."""

    title: str
    runs: list[Run]

    @property
    def baseline(self) -> Run:
        return self.runs[0]

    def speed(self, run: Run, over: Run | None = None) -> Spread | None:
        """How many times faster `run` is per pixel than `over`, the baseline by default; None if one of them has no times."""
        over = over or self.baseline
        if not run.seconds or not over.seconds:
            return None
        scale = run.entry.pixels / over.entry.pixels
        return ratios([scale * seconds for seconds in over.seconds], run.seconds)

    def pick(self, name: str | None = None, form: str | None = None, precision: str | None = None) -> list[Run]:
        """The timed runs of a name, form and precision; None stands for any."""
        wanted = {'name': name, 'form': form, 'precision': precision}
        return [
            run
            for run in self.runs
            if run.seconds
            and all(
                value is None or value == (run.entry.precision if key == 'precision' else getattr(run.entry.subject, key))
                for key, value in wanted.items()
            )
        ]

    def fastest(self, precision: str, form: str | None = None) -> Run | None:
        """Of our forms the one with the smallest median; of one form, if given."""
        runs = [run for run in self.pick(form=form, precision=precision) if form or run.entry.subject.form not in REFERENCE]
        return min(runs, key=lambda run: run.spread.median, default=None)

    def as_dict(self) -> dict:
        runs = []
        for run in self.runs:
            speed = self.speed(run)
            runs.append({**run.as_dict(), 'speed_over_baseline': asdict(speed) if speed else None})
        return {'title': self.title, 'baseline': self.baseline.entry.label, 'runs': runs}


@dataclass
class Results:
    """Everything a benchmark found.

    Attributes:
        rates: of large matrix products by precision, multiply-adds per second, before and after the measurements.
    """

    settings: Settings
    machine: str
    groups: list[GroupResult]
    rates: dict[str, tuple[float, float]]

    def floor(self, run: Run) -> float:
        """The least time of the run's multiply-adds as a share of its median time; by the better of the two rates."""
        return run.macs / max(self.rates[run.entry.precision]) / run.spread.median

    def as_dict(self) -> dict:
        return {
            'settings': asdict(self.settings),
            'machine': self.machine,
            'matrix_rates': self.rates,
            'groups': [group.as_dict() for group in self.groups],
        }


# Speed counts only for the same outputs: what a model gives, beside what the published formulation gives with the same weights.
#
# The reference runs on the CPU in float32, where its meaning is sure, on one image: outputs at the size that is measured, gradients
# of the parameters (in training) at `GRADIENT_SIDE` at most.


OUTPUT_LIMIT, GRADIENT_LIMIT = 1e-4, 1e-3  # in float32
GRADIENT_SIDE = 128
REFERENCES = (BASELINE, OURS)  # forms that the others of the same name are compared with; the first that is there


class OutputsDifferError(ValueError):
    """Two forms of one model give different outputs, so that their times cannot be compared."""


class References:
    """The models that the entries of a group are compared with. A name without a reference form is compared with nothing."""

    def __init__(self, entries: Iterable[Entry]):
        self._entries: dict[str, Entry] = {}
        for entry in sorted(entries, key=lambda entry: entry.subject.form != BASELINE):
            if entry.precision == 'fp32' and entry.subject.form in REFERENCES:
                self._entries.setdefault(entry.subject.name, entry)
        self._models: dict[str, nn.Module] = {}
        self._values: dict[tuple, list[Tensor]] = {}

    def errors(self, call: Call) -> tuple[float | None, float | None]:
        """Relative errors of outputs and gradients; None where there is nothing to compare, or to compare with.

        Raises:
            OutputsDifferError: a form of ours is off in float32.
        """
        entry = call.entry
        reference = self._entries.get(entry.subject.name)
        if reference is None:
            return None, None
        itself = (entry.subject.form, entry.precision) == (reference.subject.form, 'fp32')
        if itself and call.device.type == 'cpu':
            return None, None
        of_outputs = self._error(call, reference, outputs, entry.size, OUTPUT_LIMIT)
        if not call.training or names(call.model) != names(self._model(reference)):
            return of_outputs, None
        small = tuple(min(side, GRADIENT_SIDE) for side in entry.size)
        return of_outputs, self._error(call, reference, gradients, small, GRADIENT_LIMIT)

    def _error(self, call: Call, reference: Entry, values: Callable, size: tuple[int, int], limit: float) -> float:
        key = (reference.subject.name, values, size)
        if key not in self._values:
            self._values[key] = values(Call(self._model(reference), images_of(size, 1), reference), size)
        error = relative_error(values(call, size), self._values[key])
        entry = call.entry
        if entry.precision == 'fp32' and entry.subject.form not in REFERENCE and not error <= limit:
            raise OutputsDifferError(
                f'{entry.label} and {reference.subject.form} have the same weights and give different {values.__name__} in '
                f'{entry.mode}: relative error {error:.1e}, at most {limit:.0e} expected in float32; their times cannot be '
                f'compared, nothing more is measured'
            )
        return error

    def _model(self, entry: Entry) -> nn.Module:
        if entry.subject.name not in self._models:
            self._models[entry.subject.name] = made(entry)
        return self._models[entry.subject.name]


def names(model: nn.Module) -> list[str]:
    """Of the parameters, in order; torch.compile's wrapper adds nothing to them."""
    return sorted(name.removeprefix('_orig_mod.') for name, _ in model.named_parameters())


def outputs(call: Call, size: tuple[int, int]) -> list[Tensor]:
    """Of an image of a size."""
    return [output.detach() for output in call.forward(images_of(size, 1).to(call.device))]


def gradients(call: Call, size: tuple[int, int]) -> list[Tensor]:
    """All in one, so that a parameter that hardly matters does not decide; in the order of the names."""
    small = Call(call.model, images_of(size, 1).to(call.device), call.entry)
    small()
    found = [p.grad.float().flatten().cpu() for _, p in sorted(small.model.named_parameters()) if p.grad is not None]
    small.clear()
    return [torch.cat(found)]


def relative_error(values: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The norm of the difference over the norm of the reference, of the worst tensor.

    Infinite if numbers or shapes of tensors differ, or a value is not finite.
    """
    if [v.shape for v in values] != [r.shape for r in reference] or not reference:
        return float('inf')
    worst = 0.0
    for value, want in zip(values, reference):
        value, want = (tensor.to('cpu', torch.float64) for tensor in (value, want))
        error = ((value - want).norm() / want.norm().clamp_min(1e-30)).item()
        worst = max(worst, error if error == error else float('inf'))
    return worst


# Measuring a plan: the same outputs first, then memory, then paired rounds.


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
    words = describe_hardware(device, torch.get_num_threads())
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

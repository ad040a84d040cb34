"""What a benchmark found: of each entry the seconds of every round, memory, error and floor."""

from dataclasses import asdict, dataclass, field

from mmfreq.analysis.benchmark.memory import Memory
from mmfreq.analysis.benchmark.settings import Settings
from mmfreq.analysis.benchmark.subjects import THEIRS, Entry
from mmfreq.analysis.benchmark.timing import Spread, ratios


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
        runs = [run for run in self.pick(form=form, precision=precision) if form or run.entry.subject.form not in THEIRS]
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

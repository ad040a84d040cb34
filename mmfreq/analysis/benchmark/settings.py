"""What can be asked: the suites with their defaults, and the settings of a run."""

from dataclasses import dataclass, replace

ARCHS = ('hornet-tiny-7x7', 'hornet-tiny-gf', 'dfformer-s18', 'cdfformer-s18', 'affnet')
MODES = ('inference', 'training')
LEVERS = ('ours', 'optimized', 'memory_efficient')


@dataclass(frozen=True)
class Settings:
    """What to measure and how; empty tuples are filled in by `settled` from the suite.

    Attributes:
        training_precisions: by default those of inference if these are given, else float32.
        forms: of our archs, beside the baseline; by default the model as it is, in the suite 'published' also `LEVERS`.
        repeats: rounds.
        at_least: seconds that one measurement takes.
        alone: on a CPU each entry is timed in a process of its own, so that none inherits what others have done to the allocator.
    """

    suite: str = 'published'
    archs: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    precisions: tuple[str, ...] = ()
    training_precisions: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    batch: int = 1
    repeats: int = 10
    device: str = 'cpu'
    at_least: float = 0.05
    alone: bool = True

    def precisions_of(self, mode: str) -> tuple[str, ...]:
        return self.training_precisions if mode == 'training' else self.precisions

    def modes_and_precisions(self) -> list[tuple[str, str]]:
        return [(mode, precision) for mode in self.modes for precision in self.precisions_of(mode)]


@dataclass(frozen=True)
class Suite:
    """A question and what it is asked of by default. `quick` holds the settings of a quick run."""

    question: str
    defaults: dict
    quick: dict


SUITES = {
    'published': Suite(
        'how much faster, and in how much less memory, than the published formulation with the same weights?',
        dict(archs=ARCHS, sizes=((512, 512),), precisions=('fp32', 'bf16'), modes=MODES),
        dict(sizes=((224, 224),), repeats=3),
    ),
    'peers': Suite(
        'how does it compare with what a user would pick instead, above all at high resolution?',
        dict(archs=ARCHS[1:4], sizes=((224, 224), (512, 512), (1024, 1024)), precisions=('fp32',), modes=MODES),
        dict(archs=ARCHS[2:4], sizes=((224, 224), (512, 512)), repeats=3),
    ),
    'growth': Suite(
        'does the time per pixel stay the same from 512x512 to 2048x2048?',
        dict(archs=ARCHS, sizes=((512, 512), (1024, 1024), (2048, 2048)), precisions=('fp32',), modes=('inference',)),
        dict(archs=ARCHS[2:3], repeats=3, sizes=((512, 512), (1024, 1024))),
    ),
    'resolutions': Suite(
        'time and memory against resolution, for the plot',
        dict(
            archs=ARCHS[1:4],
            sizes=((224, 224), (512, 512), (1024, 1024), (2048, 2048)),
            precisions=('fp32',),
            modes=MODES,
        ),
        dict(archs=ARCHS[2:3], sizes=((224, 224), (320, 320), (512, 512)), modes=('inference',), repeats=3),
    ),
}


def settled(settings: Settings, quick: bool = False) -> Settings:
    """The settings with what was left open filled in.

    Raises:
        ValueError: unknown suite; a growth of one size.
    """
    if settings.suite not in SUITES:
        raise ValueError(f"suite '{settings.suite}' is unknown; choose from {', '.join(SUITES)}")
    suite = SUITES[settings.suite]
    settings = replace(
        settings,
        forms=settings.forms or (LEVERS if settings.suite == 'published' else LEVERS[:1]),
        training_precisions=settings.training_precisions or settings.precisions or ('fp32',),
    )
    defaults = {**suite.defaults, **(suite.quick if quick else {})}
    filled = {key: value for key, value in defaults.items() if key != 'repeats' and not getattr(settings, key)}
    if quick:
        filled['repeats'] = min(settings.repeats, suite.quick['repeats'])
    settings = replace(settings, **filled)
    if settings.suite == 'growth' and len(set(settings.sizes)) < 2:
        raise ValueError(f'growth is from one size to another; got {len(set(settings.sizes))} size, give at least two')
    return settings

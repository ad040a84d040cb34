"""The suites: the question of each, its default settings, and the groups of entries that it compares."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from benchmarks.harness.entries import REFERENCE, Entry, Group, ModelSources, conversions, has_form

ARCHS = ('hornet-tiny-7x7', 'hornet-tiny-gf', 'dfformer-s18', 'cdfformer-s18', 'affnet')
MODES = ('inference', 'training')
LEVERS = ('mmfreq', 'optimized', 'memory_efficient')
PEERS = ('convformer_s18', 'caformer_s18', 'convnext_tiny')  # the first is the baseline


@dataclass(frozen=True)
class Settings:
    """What to measure and how; `with_defaults` replaces empty tuples by the defaults of the suite.

    Attributes:
        training_precisions: default: `precisions` if they are given, else float32.
        forms: forms of the archs beside the baseline; default: the model as it is, in the suite 'reference' all of `LEVERS`.
        repeats: number of rounds.
        min_seconds: shortest time of one measurement; shorter calls are repeated.
        isolated: on a CPU, time each entry in its own process, because models affect each other through the memory allocator.
    """

    suite: str = 'reference'
    archs: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    precisions: tuple[str, ...] = ()
    training_precisions: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    batch: int = 1
    repeats: int = 10
    device: str = 'cpu'
    min_seconds: float = 0.05
    isolated: bool = True

    def precisions_of(self, mode: str) -> tuple[str, ...]:
        return self.training_precisions if mode == 'training' else self.precisions

    def modes_and_precisions(self) -> list[tuple[str, str]]:
        return [(mode, precision) for mode in self.modes for precision in self.precisions_of(mode)]


@dataclass(frozen=True)
class Suite:
    """A question and its default settings; `quick` overrides them for a quick run."""

    question: str
    defaults: dict
    quick: dict


SUITES = {
    'reference': Suite(
        'how much faster than the reference implementation with the same weights, and in how much less memory?',
        dict(archs=ARCHS, sizes=((512, 512),), precisions=('fp32', 'bf16'), modes=MODES),
        dict(sizes=((224, 224),), repeats=3),
    ),
    'peers': Suite(
        'how does it compare with the alternatives in timm, especially at high resolution?',
        dict(archs=ARCHS[1:4], sizes=((224, 224), (512, 512), (1024, 1024)), precisions=('fp32',), modes=MODES),
        dict(archs=ARCHS[2:4], sizes=((224, 224), (512, 512)), repeats=3),
    ),
    'growth': Suite(
        'does the time per pixel stay constant from 224x224 to 2048x2048, and in the alternatives in timm?',
        dict(
            archs=(*ARCHS, 'gfnet-h-ti'),
            sizes=((224, 224), (512, 512), (1024, 1024), (2048, 2048)),
            precisions=('fp32',),
            modes=('inference',),
        ),
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


def with_defaults(settings: Settings, quick: bool = False) -> Settings:
    """The settings with the defaults of the suite.

    Raises:
        ValueError: unknown suite; fewer than two sizes in the suite growth.
    """
    if settings.suite not in SUITES:
        raise ValueError(f"The suite '{settings.suite}' is unknown. Choose from {', '.join(SUITES)}.")
    suite = SUITES[settings.suite]
    settings = replace(
        settings,
        forms=settings.forms or (LEVERS if settings.suite == 'reference' else LEVERS[:1]),
        training_precisions=settings.training_precisions or settings.precisions or ('fp32',),
    )
    defaults = {**suite.defaults, **(suite.quick if quick else {})}
    filled = {key: value for key, value in defaults.items() if key != 'repeats' and not getattr(settings, key)}
    if quick:
        filled['repeats'] = min(settings.repeats, suite.quick['repeats'])
    settings = replace(settings, **filled)
    if settings.suite == 'growth' and len(set(settings.sizes)) < 2:
        raise ValueError(f'The suite growth needs several sizes, got {len(set(settings.sizes))}. Give at least two with --size.')
    return settings


def plan(settings: Settings, sources: ModelSources) -> list[Group]:
    """The groups of a suite; `settings` come from `with_defaults`."""
    return list(PLANS[settings.suite](settings, sources))


def reference_suite(settings: Settings, sources: ModelSources) -> Iterator[Group]:
    """Each arch against its reference implementation in float32, all forms and precisions in the same rounds."""
    for name, size, mode in product(settings.archs, settings.sizes, settings.modes):
        options = {'size': size, 'mode': mode, 'batch': settings.batch}
        entries = [Entry(sources.model(name, REFERENCE), precision='fp32', **options)]
        for form, precision in product(settings.forms, settings.precisions_of(mode)):
            if has_form(name, form, mode):
                model = sources.model(name, form)
                entries += [Entry(model, precision=precision, conversion=each, **options) for each in conversions(precision, mode)]
        yield Group(f'{name}, {size[0]}x{size[1]}, {mode}', tuple(entries))


def peers_suite(settings: Settings, sources: ModelSources, forms: tuple[str, ...] = ()) -> Iterator[Group]:
    """The archs beside timm's models; the baseline is ConvFormer in the same precision."""
    for size, (mode, precision) in product(settings.sizes, settings.modes_and_precisions()):
        models = [sources.peer(name) for name in PEERS]
        for name, form in product(settings.archs, (*settings.forms, *forms)):
            if has_form(name, form, mode) and (form != REFERENCE or precision == 'fp32'):
                models.append(sources.model(name, form))
        conversion = conversions(precision, mode)[-1]
        entries = (Entry(model, size, mode, precision, conversion, settings.batch) for model in models)
        yield Group(f'{size[0]}x{size[1]}, {mode}, {precision}', tuple(entries))


def resolutions_suite(settings: Settings, sources: ModelSources) -> Iterator[Group]:
    """Like `peers_suite`, with the reference implementation of each arch, from 224 to 2048: for the plot."""
    return peers_suite(settings, sources, forms=(REFERENCE,))


def growth_suite(settings: Settings, sources: ModelSources) -> Iterator[Group]:
    """One model at several sizes in the same rounds; the smallest is the baseline. With the default archs, also timm's models."""
    default = settings.archs == SUITES['growth'].defaults['archs']
    sizes = sorted(settings.sizes, key=lambda size: size[0] * size[1])
    for mode, precision in settings.modes_and_precisions():
        names = product(settings.archs, settings.forms)
        models = [sources.model(name, form) for name, form in names if has_form(name, form, mode)]
        for model in (*models, *(sources.peer(name) for name in PEERS * default)):
            conversion = conversions(precision, mode)[-1]
            entries = (Entry(model, size, mode, precision, conversion, settings.batch) for size in sizes)
            yield Group(f'{model.name}, {model.form}, {mode}, {precision}', tuple(entries))


PLANS = {'reference': reference_suite, 'peers': peers_suite, 'growth': growth_suite, 'resolutions': resolutions_suite}

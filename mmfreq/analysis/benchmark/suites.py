"""What is compared with what: each suite turns archs, sizes, modes and precisions into groups of entries."""

from collections.abc import Iterator
from itertools import product

from mmfreq.analysis.benchmark.precision import ways
from mmfreq.analysis.benchmark.settings import Settings
from mmfreq.analysis.benchmark.subjects import BASELINE, Entry, Group, Makers, exists

PEERS = ('convformer_s18', 'caformer_s18', 'convnext_tiny')  # the first is the baseline


def published(settings: Settings, makers: Makers) -> Iterator[Group]:
    """Each arch against its published formulation in float32, all forms and precisions in the same rounds."""
    for name, size, mode in product(settings.archs, settings.sizes, settings.modes):
        where = {'size': size, 'mode': mode, 'batch': settings.batch}
        entries = [Entry(makers.subject(name, BASELINE), precision='fp32', **where)]
        for form, precision in product(settings.forms, settings.precisions_of(mode)):
            if exists(name, form, mode):
                subject = makers.subject(name, form)
                entries += [Entry(subject, precision=precision, way=way, **where) for way in ways(precision, mode)]
        yield Group(f'{name}, {size[0]}x{size[1]}, {mode}', tuple(entries))


def peers(settings: Settings, makers: Makers, forms: tuple[str, ...] = ()) -> Iterator[Group]:
    """Our archs beside what a user would pick instead; the baseline is ConvFormer in the same precision."""
    for size, (mode, precision) in product(settings.sizes, settings.modes_and_precisions()):
        subjects = [makers.peer(name) for name in PEERS]
        for name, form in product(settings.archs, (*settings.forms, *forms)):
            if exists(name, form, mode) and (form != BASELINE or precision == 'fp32'):
                subjects.append(makers.subject(name, form))
        way = ways(precision, mode)[-1]
        entries = (Entry(subject, size, mode, precision, way, settings.batch) for subject in subjects)
        yield Group(f'{size[0]}x{size[1]}, {mode}, {precision}', tuple(entries))


def resolutions(settings: Settings, makers: Makers) -> Iterator[Group]:
    """As `peers`, with the published formulation of each arch, and from 224 to 2048: for the plot."""
    return peers(settings, makers, forms=(BASELINE,))


def growth(settings: Settings, makers: Makers) -> Iterator[Group]:
    """One model at several sizes in the same rounds; the smallest is the baseline."""
    sizes = sorted(settings.sizes, key=lambda size: size[0] * size[1])
    for name, (mode, precision), form in product(settings.archs, settings.modes_and_precisions(), settings.forms):
        if exists(name, form, mode):
            subject, way = makers.subject(name, form), ways(precision, mode)[-1]
            entries = (Entry(subject, size, mode, precision, way, settings.batch) for size in sizes)
            yield Group(f'{name}, {form}, {mode}, {precision}', tuple(entries))


PLANS = {'published': published, 'peers': peers, 'growth': growth, 'resolutions': resolutions}


def plan(settings: Settings, makers: Makers) -> list[Group]:
    """The groups of a suite; `settings` are settled."""
    return list(PLANS[settings.suite](settings, makers))

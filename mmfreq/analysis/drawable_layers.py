"""Which layers of a model have something to draw, and which of them to take where nobody says."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby

from torch import nn

from mmfreq.layers import AdaptiveFrequencyFilter, DynamicFilter, GnConv, StoredFilter

# what can be drawn -> (layers that have it, what it is in words)
KINDS: dict[str, tuple[type[nn.Module], str]] = {
    'filters': (StoredFilter, 'stored filters (GFNet, HorNet-GF, DFFormer, GFFormer)'),
    'gating': (GnConv, 'gated products of gnConv (HorNet, HorFPN)'),
    'routing': (DynamicFilter, 'routing of dynamic filters (DFFormer)'),
    'masks': (AdaptiveFrequencyFilter, 'masks of adaptive frequency filters (AFFNet)'),
}
NAMES_IN_ERRORS = 12


@dataclass(frozen=True)
class Choice:
    """The layers of one kind that were taken, by name in the order of the model, and how many there were to choose from."""

    layers: dict[str, nn.Module]
    of: int


def choose_layers(model: nn.Module, draw: Collection[str] = (), pattern: str = '*', most: int = 4) -> dict[str, Choice]:
    """The layers to draw, by kind; at most `most` of each, spread over the stages and within them.

    Args:
        draw: keys of `KINDS`; empty for all that the model has.
        pattern: glob for the layers' names, or for a run of whole parts of them: 'stages.2' is everything below it.

    Raises:
        ValueError: unknown kind, the model has none of them, or no such layer matches; what there is is named.
    """
    if unknown := sorted(set(draw) - set(KINDS)):
        raise ValueError(f'cannot draw {", ".join(unknown)}; choose from {", ".join(KINDS)}')
    if most < 1:
        raise ValueError(f'at most {most} layers are asked for; it must be at least 1')
    there = {kind: _layers(model, kind) for kind in KINDS}
    there = {kind: layers for kind, layers in there.items() if layers}
    if lacking := [kind for kind in draw or KINDS if kind not in there and (draw or not there)]:
        has = f'it has {", ".join(there)}' if there else 'choose a model of another family'
        raise ValueError(f'{type(model).__name__} has no {", no ".join(KINDS[kind][1] for kind in lacking)}; {has}')
    wanted = {kind: layers for kind, layers in there.items() if not draw or kind in draw}
    found = {kind: [name for name in layers if matches(name, pattern)] for kind, layers in wanted.items()}
    if not any(found.values()):
        names = list(dict.fromkeys(name for layers in wanted.values() for name in layers))
        more = f' and {len(names) - NAMES_IN_ERRORS} more' if len(names) > NAMES_IN_ERRORS else ''
        raise ValueError(f"no layer that can be drawn matches '{pattern}'; there are {', '.join(names[:NAMES_IN_ERRORS])}{more}")
    return {
        kind: Choice({name: wanted[kind][name] for name in spread_over_groups(names, most)}, len(names))
        for kind, names in found.items()
        if names
    }


def _layers(model: nn.Module, kind: str) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, KINDS[kind][0])}


def matches(name: str, pattern: str) -> bool:
    """Whether a glob stands for a dotted name or for a run of whole parts of it."""
    return any(fnmatchcase(name, before + pattern + after) for before in ('', '*.') for after in ('', '.*'))


def spread_over_groups(names: Sequence[str], most: int) -> list[str]:
    """At most `most` names, evenly over the stages (what precedes the last number of a name), then evenly within each."""
    stages = [list(group) for _, group in groupby(names, lambda name: re.sub(r'\d+\D*$', '', name))]
    stages = spread(stages, most)
    return [name for stage in stages for name in spread(stage, most // len(stages))]


def spread(items: Sequence, count: int) -> list:
    """`count` of the items evenly spread, first and last among them, or all if there are fewer; a single one is the last."""
    if count == 1:
        return list(items[-1:])
    last, count = len(items) - 1, min(count, len(items))
    return [items[round(i * last / max(count - 1, 1))] for i in range(count)]

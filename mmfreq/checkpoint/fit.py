"""Fit a state dict in any published layout to a model: choose the entry, rename, resize filters, say what was done.

Nothing here changes a model. A name that no rule explains is left for the caller to refuse (`load.load_weights`) or report
(`load_state_dict`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mmfreq.checkpoint.entries import choose_entry, unwrap
from mmfreq.checkpoint.rules import BACKBONE, RULES, UNKNOWN, FamilyRules, Layout, describe, is_whole, reason
from mmfreq.checkpoint.values import why_unusable
from mmfreq.compat.safe_load import CheckpointError

__all__ = ['Fitted', 'fit_backbone', 'fit_model', 'unwrap']

NOT_BACKBONE = 'not of the backbone'


@dataclass
class Fitted:
    """A state dict in the model's names, and what was done to it.

    Attributes:
        layout: name of the recognised layout; '' if the file holds no part of a backbone of ours.
        entry: key of the file that the weights are from; '' for a bare state dict.
        state: the result.
        renamed: their name to ours, where they differ.
        resized: our name to (stored shape, model's shape) of filters and position embeddings.
        dropped: their name to the reason.
        fresh: our name to the reason why it keeps the model's value.
    """

    layout: str
    entry: str = ''
    state: dict[str, Tensor] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    resized: dict[str, tuple[tuple, tuple]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)


def fit_backbone(checkpoint: Mapping[str, Any], backbone: nn.Module, entry: str = 'auto') -> Fitted:
    """Fit a classifier's, backbone's or whole segmentor's or detector's parameters to one of our backbones or classifiers.

    Args:
        entry: as in `entries.choose_entry`.

    Raises:
        CheckpointError: the file is of another network, or not one name belongs to the backbone.
    """
    chosen = choose_entry(checkpoint, entry)
    rules = RULES[backbone.family]
    layout, ours = our_names(chosen.state, rules)
    whole = is_whole(ours.values())
    target = backbone.state_dict()
    parts = {theirs: name.removeprefix(BACKBONE) for theirs, name in ours.items() if not whole or name.startswith(BACKBONE)}
    refuse_another_network(chosen.state, parts.values(), backbone)
    left_out = (*rules.only_in_files, *backbone.unbuilt_parts())
    out = Fitted(layout.name if layout else 'official', chosen.name)
    out.dropped = {theirs: NOT_BACKBONE for theirs in ours if theirs not in parts}
    for theirs, name in parts.items():
        if name not in target and (why := reason(name, left_out)):
            out.dropped[theirs] = why
            continue
        if name != theirs:
            out.renamed[theirs] = name
        out.state[name] = chosen.state[theirs]
    keep_fresh(out, target, rules)
    resize_stored(out, backbone)
    return out


def our_names(names: Iterable[str], rules: FamilyRules) -> tuple[Layout | None, dict[str, str]]:
    """The layout, and their names to ours; unknown ones stay as they are.

    Raises:
        CheckpointError: two names become one.
    """
    layout = rules.layout_of(names)
    ours = {theirs: layout.ours(theirs) if layout else theirs for theirs in names}
    if len(set(ours.values())) < len(ours):
        seen = list(ours.values())
        twice = sorted(theirs for theirs, name in ours.items() if seen.count(name) > 1)
        raise CheckpointError(f'names of the checkpoint mean the same parameter ({layout.name} layout): {", ".join(twice)}')
    return layout, ours


def refuse_another_network(names: Mapping[str, Tensor], parts: Iterable[str], backbone: nn.Module) -> None:
    """Raise if the file's backbone is told to be another network than ours, or shares no name with it."""
    own, parts = backbone.state_dict(), list(parts)
    looks, expected = describe(parts), describe(own)
    if looks == expected or (looks == UNKNOWN and own.keys() & set(parts)) or (expected == UNKNOWN and own.keys() & set(parts)):
        return
    is_family = backbone.family.lower() in looks.lower()
    told = f'holds another network of the {backbone.family} family' if is_family else f'is not of the {backbone.family} family'
    raise CheckpointError(
        f'the checkpoint {told} and does not belong to {type(backbone).__name__}: its {len(names)} names look like {looks} '
        f'(names such as {", ".join(list(names)[:3])}), the model is {expected}. '
        f'Give a checkpoint of arch {backbone.arch_name or "of this family"} or change the arch'
    )


def keep_fresh(out: Fitted, target: Mapping[str, Tensor], rules: FamilyRules) -> None:
    """Put the model's own values in for what this kind of file never holds; a part of them missing is an error for the caller."""
    absent = {name: why for name in target if name not in out.state and (why := reason(name, rules.only_in_models))}
    present = [name for name in out.state if reason(name, rules.only_in_models)]
    if absent and not present:
        out.fresh = absent
        out.state.update({name: target[name] for name in absent})


def resize_stored(out: Fitted, model: nn.Module) -> None:
    """Bring filters and position embeddings of other grids to the model's by the load-time rule of the module that owns them.

    Such a module names its parameters in `stored_parameters` and has `fit_stored(name, value)`.
    """
    for path, module in model.named_modules():
        for own in getattr(module, 'stored_parameters', ()):
            name = f'{path}.{own}' if path else own
            if name not in out.state:
                continue
            before = out.state[name]
            if why_unusable(before, getattr(module, own)):  # for the caller to refuse
                continue
            after = module.fit_stored(own, before)
            if after.shape != before.shape:
                out.state[name] = after
                out.resized[name] = (tuple(before.shape), tuple(after.shape))


def fit_model(checkpoint: Mapping[str, Any], model: nn.Module, entry: str = 'auto') -> Fitted:
    """Fit to any model: one of our backbones or classifiers, or a segmentor or detector that holds one as `backbone`.

    A file without a `backbone.` prefix fills the backbone of a whole model. Parts outside the backbone are renamed by the layout.
    """
    if hasattr(model, 'family'):
        return fit_backbone(checkpoint, model, entry)
    chosen = choose_entry(checkpoint, entry)
    backbone = getattr(model, 'backbone', None)
    if not hasattr(backbone, 'family'):
        return Fitted('', chosen.name, dict(chosen.state))
    inner = fit_backbone(chosen.state, backbone)
    _, ours = our_names(chosen.state, RULES[backbone.family])
    others = {theirs: ours[theirs] for theirs, why in inner.dropped.items() if why == NOT_BACKBONE}
    renamed = {theirs: BACKBONE + name for theirs, name in inner.renamed.items()} | others
    out = Fitted(
        layout=inner.layout,
        entry=chosen.name,
        state={BACKBONE + n: v for n, v in inner.state.items()} | {name: chosen.state[theirs] for theirs, name in others.items()},
        renamed={theirs: name for theirs, name in renamed.items() if theirs != name},
        resized={BACKBONE + n: shapes for n, shapes in inner.resized.items()},
        dropped={n: why for n, why in inner.dropped.items() if n not in others},
        fresh={BACKBONE + n: why for n, why in inner.fresh.items()},
    )
    resize_stored(out, model)  # the decoder's; the backbone's fit already
    return out

"""Which entry of a checkpoint file holds the weights.

'auto' takes averaged (EMA) weights where a file has them beside the raw ones: the published numbers of AFFNet, and of HorNet on
ImageNet-1k, are theirs. timm's training script calls them `state_dict_ema`, the scripts of HorNet and GFNet `model_ema` (GFNet's
published numbers are of the raw `model`), CVNets, in which AFFNet is written, `ema_state_dict`.

mmengine's own files are the exception: its EMAHook exchanges the two when it saves, so that `state_dict` holds the averaged weights
and `ema_state_dict` the raw ones. They are told by their `message_hub` or `meta`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmfreq.compat.safe_load import CheckpointError
from mmfreq.weights.rules import BACKBONE, RULES, UNKNOWN, FamilyRules, Layout, describe, is_whole, reason

AVERAGED = ('state_dict_ema', 'model_ema', 'ema_state_dict')
RAW = ('state_dict', 'model', 'model_state_dict')  # the first two in the order of the published loaders
MODULE = 'module.'
MAX_DEPTH = 4  # of entries; a file can hold itself
COUNTERS = ('steps', 'n_averaged')  # of mmengine's and torch's averaged models, beside `module.`


@dataclass(frozen=True)
class Entry:
    """The weights of a checkpoint.

    Attributes:
        path: keys that lead to them; () for a bare state dict.
        state: the tensors, a `module.` prefix stripped.
        module: there was one.
        left: what stands beside them in the file.
    """

    path: tuple[str, ...]
    state: dict[str, Tensor]
    module: bool
    left: tuple[str, ...]

    @property
    def name(self) -> str:
        return '.'.join(self.path)


def choose_entry(checkpoint: Any, entry: str = 'auto', depth: int = 0) -> Entry:
    """The weights in the content of a file.

    Args:
        checkpoint: a state dict, bare or below one of the known entries.
        entry: the key to take, or 'auto'.
        depth: of the entry that is looked at, in the file.

    Raises:
        CheckpointError: no such entry, or no parameters in it.
    """
    held = [key for key in (*AVERAGED, *RAW) if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping)]
    if entry != 'auto' and not (isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(entry), Mapping)):
        there = ', '.join(held) or 'none: its parameters, if any, are bare'
        raise CheckpointError(f"the checkpoint has no entry '{entry}'; entries that hold parameters: {there}")
    if entry == 'auto' and not held:
        return _bare(checkpoint)
    if entry == 'auto':
        by_mmengine = 'state_dict' in held and ('message_hub' in checkpoint or 'meta' in checkpoint)
        entry = 'state_dict' if by_mmengine else next((key for key in held if checkpoint[key]), held[0])
    if depth == MAX_DEPTH:
        raise CheckpointError(f'the checkpoint has entries within entries, deeper than {MAX_DEPTH}: no parameters were found')
    inner = choose_entry(checkpoint[entry], depth=depth + 1)
    left = (*inner.left, *(key for key in checkpoint if key != entry))
    return Entry((entry, *inner.path), inner.state, inner.module, left)


def _bare(checkpoint: Any) -> Entry:
    if not isinstance(checkpoint, Mapping) or not any(isinstance(v, Tensor) for v in checkpoint.values()):
        got = f'keys {list(checkpoint)[:5]}' if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise CheckpointError(f'the checkpoint holds no parameters: got {got}, expected names with tensors')
    state = {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    if odd := [name for name in state if not isinstance(name, str)]:
        raise CheckpointError(f'names of parameters must be text, got {len(odd)} of another type, the first is {odd[0]!r}')
    inside = {name.removeprefix(MODULE): value for name, value in state.items() if name.startswith(MODULE)}
    module = bool(inside) and all(name.startswith(MODULE) or name in COUNTERS for name in state)
    taken = {MODULE + name for name in inside} if module else set(state)
    return Entry((), inside if module else state, module, tuple(name for name in checkpoint if name not in taken))


def unwrap(checkpoint: Any, entry: str = 'auto') -> dict[str, Tensor]:
    """The tensors of a checkpoint: the `state` of `choose_entry`."""
    return choose_entry(checkpoint, entry).state


# What the values of a checkpoint are: numbers that a model can take, in which precision, and whether they are numbers at all.


def unusable(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, str]:
    """Name to the reason, for tensors that `load_state_dict` would turn into something else without a word, or not take at all.

    Args:
        target: the model's own; what it does not have is passed over.
    """
    found = {name: why_unusable(value, target[name]) for name, value in state.items() if name in target}
    return {name: why for name, why in found.items() if why}


def why_unusable(value: Tensor, own: Tensor) -> str:
    """The reason why `value` cannot be put where `own` is; '' if it can."""
    kind = str(value.dtype).removeprefix('torch.')
    if value.layout != torch.strided:
        return f'sparse {kind}'
    if value.is_meta and not own.is_meta:
        return 'saved without its values, from the meta device'
    if own.is_floating_point() and not value.is_floating_point():
        return f'{kind}, the model has real numbers'
    if not own.is_complex() and value.is_complex():
        return f'{kind}, the model has {str(own.dtype).removeprefix("torch.")}'
    return ''


def changed_precision(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, str]:
    """Name to the dtype, such as 'float16', of tensors of another dtype than the model's."""
    other = {name: value.dtype for name, value in state.items() if name in target and value.dtype != target[name].dtype}
    return {name: str(dtype).removeprefix('torch.') for name, dtype in other.items()}


def broken_values(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Name to the number of values that are NaN or infinite, of tensors that have any. 0.1 s for 100 million values."""
    numbers = {name: value for name, value in state.items() if value.is_floating_point() and value.layout == torch.strided}
    counts = {}
    for name, value in numbers.items():
        value = value.float() if value.dtype.itemsize == 1 else value  # little is written for 8 bits
        if not value.is_meta and not torch.isfinite(value.sum(dtype=torch.float64)):  # the sum first: it needs no memory
            counts[name] = int((~torch.isfinite(value)).sum())
    return {name: count for name, count in counts.items() if count}


# Fit a state dict in any published layout to a model: choose the entry, rename, resize filters, say what was done.
#
# Nothing here changes a model. A name that no rule explains is left for the caller to refuse (`load.load_weights`) or report
# (`load_state_dict`).


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
    fill_absent_with_initial_values(out, target, rules)
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


def fill_absent_with_initial_values(out: Fitted, target: Mapping[str, Tensor], rules: FamilyRules) -> None:
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

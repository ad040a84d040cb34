"""From a checkpoint to the state dict of a model, or to an error that says why it was refused.

`fit_strictly` does all steps; their functions follow it in this order:

| step | function | refused |
|---|---|---|
| 0. read the file | `read_checkpoint` in `compat/safe_load.py` | missing, damaged, or with code in it |
| 1. choose the entry of the file | `choose_entry` | no such entry, no tensors, names that are not text, nested too deep |
| 1. of several networks, take the one below `prefix` | `below` | no name begins with it |
| 2. recognise the layout, rename | `mmfreq_names` | two names become one parameter |
| 3. compare the architectures | `refuse_another_network` | a file of another network, or without a common name |
| 4. drop what only files have, fill what only models have | `fit_checkpoint`, `fill_absent` | |
| 5. resize filters and position embeddings | `resize_stored` | |
| 6. fit the first convolution to the number of input channels | `fit_input_channels` | |
| 7. keep the initial values that `fresh` names | `keep_initial_values` | a prefix that matches nothing |
| 8. compare names, shapes and types | `refuse_misfits` | anything left over, missing or of another shape, as a list |

Training and test runs do the same steps and refuse with the same text (`misfit_message`), except that a run may start with heads
that the file does not fill, see `load.load_checked`.

If a file has raw and averaged (EMA) weights, 'auto' takes the averaged ones: the published numbers of AFFNet, and of HorNet on
ImageNet-1k, were measured with them (GFNet's with the raw `model`). Their key is `state_dict_ema` in timm's training script,
`model_ema` in the scripts of HorNet and GFNet, and `ema_state_dict` in CVNets, on which AFFNet is built. In files of mmengine,
which have a `message_hub` or `meta`, EMAHook has swapped the two: `state_dict` is the averaged one, `ema_state_dict` the raw one.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.weights.rules import BACKBONE, RULES, UNKNOWN, FamilyRules, Layout, describe, is_whole_model, reason
from mmfreq.weights.store import is_named, local_file

AVERAGED = ('state_dict_ema', 'model_ema', 'ema_state_dict')
RAW = ('state_dict', 'model', 'model_state_dict')  # the first two in the order of the published loaders
MODULE = 'module.'  # prefix that DistributedDataParallel adds
COUNTERS = ('steps', 'n_averaged')  # in the averaged models of mmengine and torch, beside `module.`
MAX_DEPTH = 4  # of nested entries; a file can contain itself
MAX_LISTED = 8  # names shown of a long list
RGB = 3  # channels of the images that the published weights are for
NOT_BACKBONE = 'not of the backbone'
AS_REQUESTED = 'kept at the initial value, as requested by `fresh`'


@dataclass(frozen=True)
class Entry:
    """The weights in a checkpoint.

    Attributes:
        path: keys that lead to them; () for a bare state dict.
        state: the tensors, without a `module.` prefix.
        module_prefix: whether they had one.
        other_keys: what else is in the file.
    """

    path: tuple[str, ...]
    state: dict[str, Tensor]
    module_prefix: bool
    other_keys: tuple[str, ...]

    @property
    def name(self) -> str:
        return '.'.join(self.path)


@dataclass
class Fitted:
    """A state dict in the model's names, and what was done to it.

    Attributes:
        layout: name of the recognised layout; '' if the model has no backbone of mmfreq.
        entry: key of the weights in the file; '' for a bare state dict.
        state: the result.
        renamed: name in the file to name in the model, where they differ.
        resized: name to (stored shape, model's shape) of filters and position embeddings.
        dropped: name in the file to the reason.
        fresh: name in the model to the reason why it keeps its initial value.
        adapted: name in the model to how it was fitted to the number of input channels.
    """

    layout: str
    entry: str = ''
    state: dict[str, Tensor] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    resized: dict[str, tuple[tuple, tuple]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    adapted: dict[str, str] = field(default_factory=dict)


def fit_strictly(
    model: nn.Module,
    source: str | PathLike | Mapping[str, Any],
    entry: str = 'auto',
    fresh: tuple[str, ...] = (),
    prefix: str = '',
    map_location: Any = 'cpu',
) -> tuple[Fitted, str]:
    """A state dict that fills the model completely, and the name of the source; arguments and errors as in `load_weights`."""
    if isinstance(fresh, str):
        raise ValueError(f"Expected a tuple of prefixes for fresh, got the string '{fresh}'. Write ('{fresh}',).")
    if not isinstance(prefix, str):
        raise ValueError(f'Expected text for prefix, got {prefix!r}.')
    if isinstance(source, Mapping):
        return fit_content(model, source, 'a state dict', entry, fresh, prefix), 'a state dict'
    return fit_content(model, read_source(source, map_location), str(source), entry, fresh, prefix), str(source)


def read_source(source: str | PathLike, map_location: Any = 'cpu') -> Any:
    """The content of a source of weights; URLs of other schemes, such as s3://, are read by mmengine's loader."""
    if re.match(r'[\w+.-]+://', str(source)) and not is_named(source):
        return CheckpointLoader.load_checkpoint(str(source), map_location)
    return read_checkpoint(local_file(source), map_location)


def fit_content(
    model: nn.Module, content: Mapping[str, Any], where: str, entry: str = 'auto', fresh: tuple[str, ...] = (), prefix: str = ''
) -> Fitted:
    """A state dict that fills the model completely, from the content of a file; `where` is the file's name in messages."""
    try:
        fitted = fit_checkpoint(content, model, entry, prefix)
        keep_initial_values(fitted, model.state_dict(), fresh)
    except CheckpointError as error:
        raise CheckpointError(f'{where}: {error}') from error
    refuse_misfits(fitted, model, where)
    return fitted


def fit_checkpoint(
    checkpoint: Mapping[str, Any], model: nn.Module, entry: str = 'auto', prefix: str = '', fit_channels: bool = True
) -> Fitted:
    """Steps 1 to 6; the model is not changed, and names that no rule explains stay as they are, for the caller to refuse.

    Args:
        checkpoint: content of a file: of a classifier, a dense backbone, or a whole segmentor or detector.
        model: a backbone or classifier of mmfreq, or a whole model with one as `backbone`. Any other model gets the file as it is.
        entry: see `choose_entry`.
        prefix: of the names to use, in a file with several networks; '' for all.
        fit_channels: whether to do step 6.

    Raises:
        CheckpointError: as in the table above.
    """
    chosen = below(prefix, choose_entry(checkpoint, entry))
    backbone: Any = model if hasattr(model, 'family') else getattr(model, 'backbone', None)
    if not hasattr(backbone, 'family'):
        return Fitted('', chosen.name, dict(chosen.state))
    rules, target = RULES[backbone.family], backbone.state_dict()
    layout, names = mmfreq_names(chosen.state, rules)
    whole = is_whole_model(names.values())
    inner = {old: name.removeprefix(BACKBONE) for old, name in names.items() if not whole or name.startswith(BACKBONE)}
    refuse_another_network(inner, backbone)

    out = Fitted(layout.name if layout else 'official', chosen.name)
    may_drop = (*rules.only_in_files, *backbone.unbuilt_parts())
    path = '' if backbone is model else BACKBONE
    for old, name in names.items():
        if old in inner:
            name = inner[old]
            if name not in target and (why := reason(name, may_drop)):
                out.dropped[old] = why
                continue
            name = path + name
        elif backbone is model:
            out.dropped[old] = NOT_BACKBONE
            continue
        if name != old:
            out.renamed[old] = name
        out.state[name] = chosen.state[old]
    fill_absent(out, path, target, rules)
    resize_stored(out, model)
    if fit_channels:
        fit_input_channels(out, path, backbone)
    return out


def choose_entry(checkpoint: Any, entry: str = 'auto', depth: int = 0) -> Entry:
    """Step 1: the weights in the content of a file.

    Args:
        checkpoint: a state dict, bare or below known entries.
        entry: a key, or 'auto'; see the head of this file.
        depth: of `checkpoint` in the file.

    Raises:
        CheckpointError: no such entry, or no tensors in it.
    """
    content = checkpoint if isinstance(checkpoint, Mapping) else {}
    entries = [key for key in (*AVERAGED, *RAW) if isinstance(content.get(key), Mapping)]
    if entry == 'auto' and not entries:
        return _bare_entry(checkpoint)
    if entry == 'auto':
        entry = 'state_dict' if is_of_mmengine(content) else next((key for key in entries if content[key]), entries[0])
    elif not isinstance(content.get(entry), Mapping):
        found = ', '.join(entries) or 'none, as its parameters, if any, are bare'
        raise CheckpointError(f"Expected the entry '{entry}' in the checkpoint. Its entries with parameters: {found}.")
    if depth == MAX_DEPTH:
        raise CheckpointError(f'The checkpoint has entries nested deeper than {MAX_DEPTH}: no parameters were found.')
    inner = choose_entry(content[entry], depth=depth + 1)
    other_keys = (*inner.other_keys, *(key for key in content if key != entry))
    return Entry((entry, *inner.path), inner.state, inner.module_prefix, other_keys)


def is_of_mmengine(content: Mapping[str, Any]) -> bool:
    """Whether mmengine wrote a file; its EMAHook stores the averaged weights, with which it validates, as `state_dict`."""
    return isinstance(content.get('state_dict'), Mapping) and ('message_hub' in content or 'meta' in content)


def below(prefix: str, entry: Entry) -> Entry:
    """Step 1, where a prefix is given: the tensors below it, without it; a dot at its end may be omitted.

    Raises:
        CheckpointError: no name begins with it.
    """
    if not prefix:
        return entry
    stored = MODULE if entry.module_prefix else ''
    start = prefix if prefix.endswith('.') else f'{prefix}.'
    inner = start.removeprefix(stored)
    state = {name.removeprefix(inner): value for name, value in entry.state.items() if name.startswith(inner)}
    if not state:
        names = first_names([stored + name for name in entry.state])
        raise CheckpointError(f"Expected names that begin with the prefix '{start}', found {names}.")
    return Entry(entry.path, state, entry.module_prefix, entry.other_keys)


def _bare_entry(content: Any) -> Entry:
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        found = f'the keys {list(content)[:5]}' if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(f'Expected names with tensors, found no parameters in the checkpoint: got {found}.')
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if odd := [name for name in state if not isinstance(name, str)]:
        raise CheckpointError(f'The names of parameters must be text, got {len(odd)} of another type, the first is {odd[0]!r}.')
    inside = {name.removeprefix(MODULE): value for name, value in state.items() if name.startswith(MODULE)}
    has_prefix = bool(inside) and all(name.startswith(MODULE) or name in COUNTERS for name in state)
    used = {MODULE + name for name in inside} if has_prefix else set(state)
    return Entry((), inside if has_prefix else state, has_prefix, tuple(name for name in content if name not in used))


def mmfreq_names(names: Iterable[str], rules: FamilyRules) -> tuple[Layout | None, dict[str, str]]:
    """Step 2: the layout (None: not recognised), and every name of the file with its name in the mmfreq layout.

    Raises:
        CheckpointError: two names become one.
    """
    layout = rules.layout_of(names)
    if layout is None:
        return None, {name: name for name in names}
    renamed = {name: layout.to_mmfreq(name) for name in names}
    if len(set(renamed.values())) < len(renamed):
        new = list(renamed.values())
        twice = sorted(old for old, name in renamed.items() if new.count(name) > 1)
        raise CheckpointError(f'Names of the checkpoint mean the same parameter in the {layout.name} layout: {", ".join(twice)}.')
    return layout, renamed


def refuse_another_network(names: Mapping[str, str], backbone: Any) -> None:
    """Step 3: raise if a file is of another network than `backbone`, or has no name in common with it.

    Args:
        names: name in the file to name in the mmfreq layout, of the file's backbone.
    """
    own, found, expected = backbone.state_dict(), describe(names.values()), describe(backbone.state_dict())
    if found == expected or (UNKNOWN in (found, expected) and own.keys() & set(names.values())):
        return
    raise CheckpointError(
        f'Expected a checkpoint for {type(backbone).__name__} (of the {backbone.family} family), but its {len(names)} names look '
        f'like {found}: {", ".join(list(names)[:3])}. Give a checkpoint of {backbone.arch_name or "this family"}, or another arch'
        f'{f", or name a network of the file by prefix=, such as {prefixes[0]}" if (prefixes := networks(names, own)) else ""}.'
    )


def fill_absent(out: Fitted, prefix: str, target: Mapping[str, Tensor], rules: FamilyRules) -> None:
    """Step 4: the model's own values for what such files never have. If a file has a part of it, the rest counts as missing."""
    optional = {name: why for name in target if (why := reason(name, rules.only_in_models))}
    present = [name for name in out.state if name.startswith(prefix) and reason(name.removeprefix(prefix), rules.only_in_models)]
    if optional and not present:
        out.fresh = {prefix + name: why for name, why in optional.items()}
        out.state.update({prefix + name: target[name] for name in optional})


def resize_stored(out: Fitted, model: nn.Module) -> None:
    """Step 5: resize filters and position embeddings to the model's grids, by the rule of the module that has them.

    Such a module names its parameters in `stored_parameters` and has `fit_stored(name, value)`.
    """
    for path, module in model.named_modules():
        for own in getattr(module, 'stored_parameters', ()):
            name = f'{path}.{own}' if path else own
            value = out.state.get(name)
            if value is None or incompatibility(value, getattr(module, own)):  # refused in step 8
                continue
            resized = module.fit_stored(own, value)
            if resized.shape != value.shape:
                out.state[name] = resized
                out.resized[name] = (tuple(value.shape), tuple(resized.shape))


def fit_input_channels(out: Fitted, path: str, backbone: Any) -> None:
    """Step 6: fit the first convolution of a file for RGB images to `in_channels` of the backbone, by the rule of timm.

    One channel gets the sum over the three. More channels get them in turn, scaled by 3 / `in_channels`, so that the output keeps
    its size. Files for another number of channels than three stay as they are.
    """
    name, channels = path + backbone.first_convolution(), backbone.in_channels
    value = out.state.get(name)
    if value is None or value.dim() != 4 or value.shape[1] != RGB or channels == RGB or not value.is_floating_point():
        return
    if channels == 1:
        out.state[name] = value.sum(1, keepdim=True)
        out.adapted[name] = 'the three input channels of the file, summed into 1'
    else:
        out.state[name] = value.repeat(1, -(-channels // RGB), 1, 1)[:, :channels] * (RGB / channels)
        out.adapted[name] = f'the three input channels of the file in turn for {channels}, scaled by {RGB}/{channels}'


def keep_initial_values(fitted: Fitted, target: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> None:
    """Step 7: replace the file's values of names with one of the prefixes by the model's; for `fresh` of `load_weights`.

    Raises:
        CheckpointError: a prefix that no name has, in the model or the file.
    """
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in (*target, *fitted.state)):
            raise CheckpointError(
                f"fresh: no name in the model or the file begins with '{prefix}'. The model has {first_names(list(target))}."
            )
    old_names = {name: old for old, name in fitted.renamed.items()}
    for name in [name for name in fitted.state if name.startswith(tuple(prefixes)) and name not in fitted.fresh]:
        old = old_names.get(name, name)
        del fitted.state[name]
        fitted.resized.pop(name, None)
        fitted.renamed.pop(old, None)
        fitted.dropped[old] = AS_REQUESTED
    kept = {name: value for name, value in target.items() if name.startswith(tuple(prefixes))}
    fitted.state.update(kept)
    fitted.fresh.update(dict.fromkeys(kept, AS_REQUESTED))


def refuse_misfits(fitted: Fitted, model: nn.Module, where: str) -> None:
    """Step 8: raise a CheckpointError that lists every name without a counterpart and every tensor that does not fit."""
    target, state = model.state_dict(), fitted.state
    groups = {
        UNKNOWN_TO_MODEL: [name for name in state if name not in target],
        NOT_IN_FILE: [name for name in target if name not in state],
        INCOMPATIBLE: [f'{name} ({why})' for name, why in incompatible(state, target).items()],
        ANOTHER_SHAPE: [name for name in state if name in target and state[name].shape != target[name].shape],
    }
    if any(groups.values()):
        raise CheckpointError(misfit_message(groups, state, model, where))


UNKNOWN_TO_MODEL = 'in the file, unknown to the model'
NOT_IN_FILE = 'in the model, not in the file'
INCOMPATIBLE = 'of an incompatible type'
ANOTHER_SHAPE = 'of another shape'


def misfit_message(groups: Mapping[str, list[str]], state: Mapping[str, Tensor], model: nn.Module, where: str) -> str:
    """The refusal of a checkpoint: what does not fit, what the file seems to be, and what to do.

    Args:
        groups: title to the names, or names with a reason; of `ANOTHER_SHAPE` the names alone.
        state: the tensors of the file in the model's names.
        where: name of the file.
    """
    target = model.state_dict()
    arch = getattr(getattr(model, 'backbone', model), 'arch_name', None)
    mismatched = groups.get(ANOTHER_SHAPE, [])
    shapes = [f'{name} {tuple(state[name].shape)}, model {tuple(target[name].shape)}' for name in mismatched]
    listed = {title: shapes if title == ANOTHER_SHAPE else names for title, names in groups.items()}
    lines = [
        f'{where} does not fit {type(model).__name__}{f" {arch}" if arch else ""}. Its {len(state)} names look like '
        f'{describe(state)}.',
        *(f'  {len(names)} {title}: {first_names(names)}' for title, names in listed.items() if names),
    ]
    return '\n'.join([*lines, remedy(groups, state, model)])


def remedy(groups: Mapping[str, list[str]], state: Mapping[str, Tensor], model: nn.Module) -> str:
    """What to do about a file that does not fit; arguments as in `misfit_message`."""
    target = model.state_dict()
    backbone: Any = getattr(model, 'backbone', model)
    mismatched, missing = groups.get(ANOTHER_SHAPE, []), groups.get(NOT_IN_FILE, [])
    if prefixes := networks(state, backbone.state_dict()):
        return f'The file has several networks: name one by prefix= in load_weights or init_cfg, such as {" or ".join(prefixes)}.'
    first = backbone.first_convolution() if hasattr(backbone, 'family') else ''
    if [name.removeprefix(BACKBONE) for name in mismatched] == [first] and state[mismatched[0]].dim() == 4:
        channels = state[mismatched[0]].shape[1]
        return (
            f'The file is for images of {channels} channels, and only files for {RGB} are fitted to others. Build the model with '
            f'in_channels={channels}, or use fresh={tuple(mismatched)} in load_weights or init_cfg.'
        )
    fresh = tuple(dict.fromkeys(f'{name.rpartition(".")[0]}.' for name in mismatched))
    if mismatched and all(state[name].shape[1:] == target[name].shape[1:] for name in mismatched):  # else it is another arch
        return f'The file is for another number of classes. For a new last layer, use fresh={fresh} in load_weights or init_cfg.'
    last = f'{getattr(model, "last_layer", "") or "?"}.'
    if missing and all(name.startswith(last) for name in missing) and not mismatched:
        return f"The file has no last layer. For a new one, use fresh=('{last}',) in load_weights or init_cfg."
    return 'Give a checkpoint of this model, or the arch or config of the checkpoint.'


def networks(names: Iterable[str], own: Iterable[str]) -> list[str]:
    """Prefixes such as 'teacher.' below which a file has most of a model's names `own`; none if it has them without a prefix."""
    expected, below = set(own), Counter[str]()
    for name in names:
        parts = name.removeprefix(BACKBONE).split('.')
        for depth in range(min(MAX_DEPTH, len(parts))):
            below[''.join(f'{part}.' for part in parts[:depth])] += '.'.join(parts[depth:]) in expected
    found = [prefix for prefix, count in below.items() if 2 * count > len(expected)]
    return [] if '' in found else found[:MAX_LISTED]


def incompatible(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, str]:
    """Name to the reason, for tensors that `load_state_dict` cannot copy or would silently turn into something else."""
    found = {name: incompatibility(value, target[name]) for name, value in state.items() if name in target}
    return {name: why for name, why in found.items() if why}


def incompatibility(value: Tensor, own: Tensor) -> str:
    """Why `value` cannot replace the model's tensor `own`; '' if it can."""
    dtype, expected = dtype_name(value), dtype_name(own)
    if value.layout != torch.strided:
        return f'sparse {dtype}, expected dense {expected}'
    if value.is_meta and not own.is_meta:
        return 'saved without its values, from the meta device'
    if (own.is_floating_point() and not value.is_floating_point()) or (not own.is_complex() and value.is_complex()):
        return f'{dtype}, expected {expected}'
    return ''


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix('torch.')


def first_names(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    return ', '.join(names[:MAX_LISTED]) + (f' and {len(names) - MAX_LISTED} more' if len(names) > MAX_LISTED else '')

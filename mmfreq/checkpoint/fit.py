"""Fit a state dict in any published layout to a model: unwrap, rename, resize filters, say what was done.

Nothing here changes a model. A name that no rule explains is left for the caller to refuse (`load.load_weights`) or report
(`load_state_dict`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mmfreq.checkpoint.rules import RULES, describe, reason
from mmfreq.compat.safe_load import CheckpointError

WRAPPERS = ('state_dict', 'model')  # where published files keep their parameters, in the order of the published loaders
BACKBONE = 'backbone.'
NOT_BACKBONE = 'not of the backbone'


@dataclass
class Fitted:
    """A state dict in the model's names, and what was done to it.

    Attributes:
        layout: name of the recognised layout; '' if the file holds no part of a backbone of ours.
        state: the result.
        renamed: their name to ours, where they differ.
        resized: our name to (stored shape, model's shape) of filters and position embeddings.
        dropped: their name to the reason.
        fresh: our name to the reason why it keeps the model's value.
    """

    layout: str
    state: dict[str, Tensor] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    resized: dict[str, tuple[tuple, tuple]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)


def unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint: `{'state_dict': ...}`, `{'model': ...}` or bare; a `module.` prefix is stripped.

    Raises:
        CheckpointError: no parameters in it.
    """
    for key in WRAPPERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            return unwrap(checkpoint[key])
    if not isinstance(checkpoint, Mapping) or not any(isinstance(v, Tensor) for v in checkpoint.values()):
        got = f'keys {list(checkpoint)[:5]}' if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise CheckpointError(f'the checkpoint holds no parameters: got {got}, expected names with tensors')
    return {name.removeprefix('module.'): value for name, value in checkpoint.items() if isinstance(value, Tensor)}


def fit_backbone(checkpoint: Mapping[str, Any], backbone: nn.Module) -> Fitted:
    """Fit a classifier's, backbone's or whole segmentor's or detector's parameters to one of our backbones or classifiers.

    Raises:
        CheckpointError: not one name belongs to the backbone's family.
    """
    source = unwrap(checkpoint)
    whole = any(name.startswith(BACKBONE) for name in source)
    # mmpretrain keeps a classifier's head beside the backbone; decoders belong to other modules
    parts = {n: n.removeprefix(BACKBONE) for n in source if not whole or n.startswith((BACKBONE, 'head.fc.'))}
    rules = RULES[backbone.family]
    layout = next((known for known in rules.layouts if known.recognises(parts.values())), None)
    target = backbone.state_dict()
    left_out = (*rules.only_in_files, *backbone.unbuilt_parts())
    if layout is None and not target.keys() & set(parts.values()):
        raise CheckpointError(
            f'the checkpoint is not of the {backbone.family} family: of its {len(source)} names none belongs to '
            f'{type(backbone).__name__}; it looks like {describe(source)} (names such as {", ".join(list(source)[:3])}). '
            f'Give a checkpoint of arch {backbone.arch_name or "of this family"} or change the arch'
        )
    out = Fitted(layout.name if layout else 'official')
    out.dropped = {n: NOT_BACKBONE for n in source if n not in parts}
    for theirs, own in parts.items():
        name = layout.official(own) if layout else own
        if name not in target and (why := reason(name, left_out)):
            out.dropped[theirs] = why
            continue
        if name != theirs:
            out.renamed[theirs] = name
        out.state[name] = source[theirs]
    keep_fresh(out, target, rules)
    resize_stored(out, backbone)
    return out


def keep_fresh(out: Fitted, target: Mapping[str, Tensor], rules) -> None:
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
            after = module.fit_stored(own, before)
            if after.shape != before.shape:
                out.state[name] = after
                out.resized[name] = (tuple(before.shape), tuple(after.shape))


def fit_model(checkpoint: Mapping[str, Any], model: nn.Module) -> Fitted:
    """Fit to any model: one of our backbones or classifiers, or a segmentor or detector that holds one as `backbone`.

    A file without a `backbone.` prefix fills the backbone of a whole model. Parts outside the backbone keep their names.
    """
    if hasattr(model, 'family'):
        return fit_backbone(checkpoint, model)
    source = unwrap(checkpoint)
    backbone = getattr(model, 'backbone', None)
    if not hasattr(backbone, 'family'):
        return Fitted('', dict(source))
    inner = fit_backbone(source, backbone)
    others = {n: source[n] for n, why in inner.dropped.items() if why == NOT_BACKBONE}
    out = Fitted(
        layout=inner.layout,
        state={BACKBONE + n: v for n, v in inner.state.items()} | others,
        renamed={theirs: BACKBONE + ours for theirs, ours in inner.renamed.items() if theirs != BACKBONE + ours},
        resized={BACKBONE + n: shapes for n, shapes in inner.resized.items()},
        dropped={n: why for n, why in inner.dropped.items() if n not in others},
        fresh={BACKBONE + n: why for n, why in inner.fresh.items()},
    )
    resize_stored(out, model)  # the decoder's; the backbone's fit already
    return out

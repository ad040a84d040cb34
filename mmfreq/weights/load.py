"""Load published weights into a model, strictly, and report what was done.

`load_weights` is for users; `load_checked` is for runs, in which mmengine would load with `strict=False` and only warn. How a
checkpoint becomes the model's state dict, and why one is refused, is in `fit`.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from os import PathLike
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from mmfreq.compat.safe_load import CheckpointError
from mmfreq.errors import CheckpointMismatchError
from mmfreq.weights.fit import (
    ANOTHER_SHAPE,
    AS_REQUESTED,
    INCOMPATIBLE,
    NOT_IN_FILE,
    UNKNOWN_TO_MODEL,
    Fitted,
    dtype_name,
    first_names,
    fit_checkpoint,
    fit_content,
    fit_strictly,
    incompatible,
    misfit_message,
    read_source,
)
from mmfreq.weights.store import local_file


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        source: the file, or 'a state dict'.
        layout: recognised layout.
        entry: key of the weights in the file; '' for a bare state dict.
        loaded: number of parameters and buffers filled from the source.
        renamed: name in the file to name in the model, where they differ.
        resized: name to (stored shape, model's shape) of filters and position embeddings.
        dropped: name in the file to the reason why it is not used.
        fresh: name in the model to the reason why it keeps its initial value.
        converted: name to dtype in the source, where the model's dtype is another.
        not_finite: name to the number of its NaN and infinite values; these also raise a warning.
        adapted: name to how the first convolution was fitted to the number of input channels.
    """

    source: str
    layout: str
    entry: str
    loaded: int
    renamed: dict[str, str]
    resized: dict[str, tuple[tuple, tuple]]
    dropped: dict[str, str]
    fresh: dict[str, str]
    converted: dict[str, str] = field(default_factory=dict)
    not_finite: dict[str, int] = field(default_factory=dict)
    adapted: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        where = f"{self.source}, entry '{self.entry}'" if self.entry else self.source
        lines = [f'{self.loaded} tensors from {where} ({self.layout or "own"} layout), {len(self.renamed)} renamed']
        lines += [f'  resized {name}: {old} to {new}' for name, (old, new) in self.resized.items()]
        lines += [f'  adapted {name}: {how}' for name, how in self.adapted.items()]
        for title, names in (('dropped', self.dropped), ('not loaded', self.fresh)):
            for why in dict.fromkeys(names.values()):
                if title == 'not loaded' or why != AS_REQUESTED:  # the same names are below as not loaded
                    lines.append(f'  {title} {first_names([name for name in names if names[name] == why])}: {why}')
        dtypes = Counter(self.converted.values())
        lines += [f'  converted {count} tensors from {dtype}' for dtype, count in dtypes.items()]
        if self.not_finite:
            lines.append(f'  WARNING: {describe_not_finite(self.not_finite)}')
        return '\n'.join(lines)


def load_weights(
    model: nn.Module,
    source: str | PathLike | Mapping[str, Tensor],
    *,
    entry: str = 'auto',
    fresh: tuple[str, ...] = (),
    prefix: str = '',
    map_location: Any = 'cpu',
) -> LoadReport:
    """Fill `model` from a checkpoint in any published layout.

    Args:
        model: a backbone or classifier of mmfreq, or a segmentor or detector with one.
        source: path of a `.pth` or `.safetensors` file, `mmfreq://ARCH[/TAG]`, a URL, `hf-hub:OWNER/NAME[@REVISION]`, or the
            content of a file: a state dict, bare or under an entry such as 'model'.
        entry: key of the weights in the file; 'auto' takes averaged weights where there are any (see `mmfreq.weights.fit`).
        fresh: prefixes of parameter names that keep the model's initial values, for fine-tuning. `('head.',)` is the last layer of
            most classifiers.
        prefix: of the names to use, in a file with several networks, as in mmengine's `init_cfg`.
        map_location: as in `torch.load`.

    Returns:
        What was renamed, resized, adapted to `in_channels` and dropped, and what keeps its initial value.

    Raises:
        CheckpointError: unreadable file, another network, a name that no rule knows, a shape or type that does not fit, or a
            parameter that nothing fills. The message lists the names, and the model is unchanged.
    """
    return fill(model, *fit_strictly(model, source, entry, fresh, prefix, map_location))


def fill(model: nn.Module, fitted: Fitted, where: str) -> LoadReport:
    """Copy a state dict that fits into the model; warns of NaN and infinite values."""
    report = report_of(fitted, where, model)
    if report.not_finite:
        warnings.warn(f'{where}: {describe_not_finite(report.not_finite)}', stacklevel=3)
    model.load_state_dict(fitted.state, strict=True)
    return report


def load_pretrained(model: Any, source: str | PathLike) -> LoadReport:
    """`load_weights` for `pretrained=`: a classifier for another number of classes keeps its new last layer. Logs the report.

    Args:
        model: a backbone or classifier of mmfreq.
        source: as in `load_weights`.
    """
    path = local_file(source)
    content = read_source(path)
    layer = getattr(model, 'last_layer', '')
    rows = rows_of_head(model, content)
    fresh = (f'{layer}.',) if rows not in (None, getattr(model, 'num_classes', None)) else ()
    where = str(source) if str(path) == str(source) else f'{source} ({path})'
    report = fill(model, fit_content(model, content, where, fresh=fresh), where)
    if fresh:
        why = f'the file has {rows} classes and the model {model.num_classes}, so the last layer starts from random values'
        report = replace(report, fresh={name: why if each == AS_REQUESTED else each for name, each in report.fresh.items()})
    print_log(f'{type(model).__name__} {model.arch_name}: {report}', logger='current')
    return report


def classes_in(source: str | PathLike, classifier: Any, arch: str) -> int | None:
    """Number of classes of the classifier of an arch in a source of weights; None if it has no last layer."""
    with torch.device('meta'):
        model = classifier(arch=arch)
    return rows_of_head(model, read_source(source, 'cpu'))


def rows_of_head(model: Any, content: Mapping[str, Any]) -> int | None:
    """Number of classes of the last layer in the content of a file; None if the file, or the model, has no such layer."""
    layer = getattr(model, 'last_layer', None)
    weight = fit_checkpoint(content, model).state.get(f'{layer}.weight') if layer else None
    return None if weight is None else weight.shape[0]


PRETRAINED = ('Pretrained', 'mmengine.Pretrained', PretrainedInit)  # the type of an init_cfg, in all forms
PRETRAINED_FIELDS = ('checkpoint', 'prefix', 'map_location', 'fresh', 'entry')  # of an init_cfg, beside its type


def pretrained_entries(init_cfg: Any) -> list[dict[str, Any]]:
    """The entries of type Pretrained of an init_cfg, which may be a list."""
    entries = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    return [each for each in entries if isinstance(each, dict) and each.get('type') in PRETRAINED]


def pretrained_options(init_cfg: Any) -> dict[str, Any] | None:
    """The arguments of `load_weights` in `init_cfg=dict(type='Pretrained', ...)`; None for an init_cfg of another type.

    Raises:
        ValueError: no checkpoint, or an unknown field.
    """
    entries = pretrained_entries(init_cfg)
    if not entries:
        return None
    if len(entries) > 1:
        raise ValueError(f'Expected one init_cfg of type Pretrained, found {len(entries)}: each would replace the one before.')
    init_cfg = entries[0]
    unknown = sorted(set(init_cfg) - {'type', *PRETRAINED_FIELDS})
    if unknown or not init_cfg.get('checkpoint'):
        near = [f'{name} (did you mean {close[0]}?)' for name in unknown if (close := get_close_matches(name, PRETRAINED_FIELDS))]
        found = f'unknown: {", ".join(near or unknown)}' if unknown else 'no checkpoint'
        raise ValueError(
            f'Expected an init_cfg of type Pretrained with the fields {", ".join(PRETRAINED_FIELDS)}, found {found}. For example: '
            "init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-tiny-gf')."
        )
    return dict(
        source=init_cfg['checkpoint'],
        prefix=init_cfg.get('prefix') or '',
        map_location=init_cfg.get('map_location') or 'cpu',
        fresh=init_cfg.get('fresh') or (),
        entry=init_cfg.get('entry') or 'auto',
    )


def check_fit(
    model: nn.Module,
    source: str | PathLike | Mapping[str, Tensor],
    *,
    entry: str = 'auto',
    fresh: tuple[str, ...] = (),
    prefix: str = '',
) -> LoadReport:
    """What `load_weights` would report or raise; the model, which may be on the meta device, is not changed."""
    return report_of(*fit_strictly(model, source, entry, fresh, prefix), model)


def report_of(fitted: Fitted, where: str, model: nn.Module) -> LoadReport:
    target = model.state_dict()
    given = {name: value for name, value in fitted.state.items() if name not in fitted.fresh}
    return LoadReport(
        source=where,
        layout=fitted.layout,
        entry=fitted.entry,
        loaded=len(given),
        renamed=fitted.renamed,
        resized=fitted.resized,
        dropped=fitted.dropped,
        fresh=fitted.fresh,
        converted={name: dtype_name(value) for name, value in given.items() if value.dtype != target[name].dtype},
        not_finite=count_not_finite(given),
        adapted={name: how for name, how in fitted.adapted.items() if name in given},
    )


def count_not_finite(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Name to the number of NaN and infinite values, of tensors that have any. Takes 0.1 s for 100 million values."""
    counts = {}
    for name, value in state.items():
        if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            continue
        value = value.float() if value.dtype.itemsize == 1 else value  # torch implements few functions for 8-bit floats
        if not torch.isfinite(value.sum(dtype=torch.float64)):  # the sum first: it allocates nothing
            counts[name] = int((~torch.isfinite(value)).sum())
    return {name: count for name, count in counts.items() if count}


def describe_not_finite(counts: Mapping[str, int]) -> str:
    """A message about NaN and infinite values, from their number in each tensor."""
    total = sum(counts.values())
    return f'{total} values of {len(counts)} tensors are NaN or infinite, so the outputs will be, too: {first_names(list(counts))}'


@dataclass
class LoadResult:
    """Names of a model's tensors by what a state dict does to them, and names that the model does not have."""

    filled: list[str]
    missing: list[str]
    mismatched: list[str]
    unexpected: list[str]

    @property
    def unfilled(self) -> list[str]:
        return [*self.missing, *self.mismatched]


def load_and_compare(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadResult:
    """Load what fits, through the model's load hooks. Comparing names would not do: a hook may rename or resize tensors."""
    missing: list[str] = []
    unexpected: list[str] = []
    errors: list[str] = []

    def load(module, tensors, prefix):
        module._load_from_state_dict(tensors, prefix, {}, True, missing, unexpected, errors)
        for name, child in module._modules.items():
            if child is not None:
                start = f'{prefix}{name}.'
                load(child, {key: value for key, value in tensors.items() if key.startswith(start)}, start)

    load(model, dict(state_dict), '')
    names = [name for name in model.state_dict() if not name.endswith('num_batches_tracked')]
    missing = [name for name in names if name in set(missing)]
    mismatched = [name for name in names if any(f' {name}:' in error or f'"{name}"' in error for error in errors)]
    unfilled = {*missing, *mismatched}
    return LoadResult([name for name in names if name not in unfilled], missing, mismatched, unexpected)


def load_checked(
    model: nn.Module, checkpoint: Mapping[str, Any], source: str, strict: bool, training: bool = False
) -> dict[str, Tensor]:
    """Load a checkpoint in any published layout; returns its tensors in the model's names.

    Args:
        source: the name of the file in messages.
        strict: whether the heads must be filled, too; otherwise unfilled ones are a warning.
        training: whether NaN and infinite values are a warning; otherwise they are an error.

    Raises:
        CheckpointMismatchError: nothing fits, a tensor that must be filled is not, or a value is invalid; lists the tensors.
    """
    own = model.state_dict()
    intended = count_not_finite(own)  # masks of minus infinity, for example
    try:
        found = fit_checkpoint(checkpoint, model)
    except CheckpointError as error:
        raise CheckpointMismatchError(f'{source}: {error}') from error
    fitted = found.state
    if invalid := [f'{name} ({why})' for name, why in incompatible(fitted, own).items()]:
        raise CheckpointMismatchError(misfit_message({INCOMPATIBLE: invalid}, fitted, model, source))
    result = load_and_compare(model, fitted)
    if not result.filled or (strict and result.unfilled) or any(name.startswith('backbone.') for name in result.unfilled):
        shaped = [name for name in result.mismatched if name in fitted]
        groups = {UNKNOWN_TO_MODEL: result.unexpected, NOT_IN_FILE: result.missing, ANOTHER_SHAPE: shaped}
        raise CheckpointMismatchError(misfit_message(groups, fitted, model, source))
    for name, how in found.adapted.items():
        print_log(f'{source}: {name} gets {how}.', logger='current')
    not_finite = count_not_finite({name: fitted[name] for name in result.filled if name in fitted and name not in intended})
    if not_finite and not training:
        raise CheckpointMismatchError(
            f'{source}: {describe_not_finite(not_finite)}. Give an earlier checkpoint, or download the file again.'
        )
    if not_finite:
        print_log(f'{source}: {describe_not_finite(not_finite)}.', logger='current', level=logging.WARNING)
    if result.unfilled:
        print_log(
            f'{source}: {len(result.unfilled)} tensors outside the backbone are missing in it or have another shape, and keep '
            f'their initial values: {first_names(result.unfilled)}.',
            logger='current',
            level=logging.WARNING,
        )
    return fitted

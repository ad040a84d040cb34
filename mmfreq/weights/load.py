"""Load published weights strictly, and say what was done."""

import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike

from mmengine.logging import print_log
from torch import Tensor, nn

from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.errors import CheckpointMismatchError
from mmfreq.weights.download import local_file
from mmfreq.weights.fit import Fitted, broken_values, changed_precision, fit_model, unusable, unwrap
from mmfreq.weights.rules import describe

LISTED = 8  # names shown of a long list
AS_ASKED = 'left at its initial value, as asked by `fresh`'


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        source: the file, or 'a state dict'.
        layout: recognised layout.
        entry: key of the file that the weights are from; '' for a bare state dict.
        loaded: number of parameters and buffers filled from the source.
        renamed, resized, dropped, fresh: as in `Fitted`.
        converted: name to dtype in the source, where the model's is another.
        not_finite: name to the number of its values that are NaN or infinite; a warning says so, as such a model has no use.
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

    def __str__(self) -> str:
        where = f"{self.source}, entry '{self.entry}'" if self.entry else self.source
        lines = [f'{self.loaded} tensors from {where} ({self.layout or "own"} layout), {len(self.renamed)} renamed']
        lines += [f'  resized {name}: {old} to {new}' for name, (old, new) in self.resized.items()]
        lines += [f'  dropped {name}: {why}' for name, why in self.dropped.items()]
        lines += [f'  not loaded {name}: {why}' for name, why in self.fresh.items()]
        kinds = Counter(self.converted.values())
        lines += [f'  converted {count} tensors that are {kind} in the source' for kind, count in kinds.items()]
        if self.not_finite:
            lines.append(f'  WARNING: {describe_not_finite(self.not_finite)}')
        return '\n'.join(lines)


def load_weights(
    model: nn.Module, source: str | PathLike | Mapping[str, Tensor], *, entry: str = 'auto', fresh: tuple[str, ...] = ()
) -> LoadReport:
    """Fill `model` from a checkpoint in any published layout.

    Args:
        model: one of our backbones or classifiers, or a segmentor or detector around one.
        source: path or URL of a file, or its content: a state dict, bare or under an entry such as 'model'.
        entry: the entry to take; 'auto' is described in `checkpoint/entries.py` (averaged weights where there are any).
        fresh: starts of names, for fine-tuning: parameters of the model that begin so keep their initial values, and the file's
            are dropped. `('head.',)` is the last layer of most classifiers.

    Returns:
        What was renamed, resized, dropped, and what is not loaded and keeps its initial value.

    Raises:
        CheckpointError: unreadable file, another network, a name that no rule knows, a shape that does not fit, values of another
            kind (integers, complex numbers), or a parameter that nothing filled; the names are listed and the model is unchanged.
    """
    fitted, where = fit_strictly(model, source, entry, fresh)
    report = report_of(fitted, where, model)
    if report.not_finite:
        warnings.warn(f'{where}: {describe_not_finite(report.not_finite)}', stacklevel=2)
    model.load_state_dict(fitted.state, strict=True)
    return report


def check_fit(
    model: nn.Module, source: str | PathLike | Mapping[str, Tensor], *, entry: str = 'auto', fresh: tuple[str, ...] = ()
) -> LoadReport:
    """What `load_weights` would do or raise; the model, which may be on the meta device, is not changed."""
    return report_of(*fit_strictly(model, source, entry, fresh), model)


def fit_strictly(
    model: nn.Module, source: str | PathLike | Mapping[str, Tensor], entry: str, fresh: tuple[str, ...]
) -> tuple[Fitted, str]:
    """The source fit to the model, and what messages call it; raises as `load_weights` does."""
    if isinstance(fresh, str):
        raise ValueError(f"fresh is a tuple of starts of names, got the string '{fresh}'; write ('{fresh}',)")
    if isinstance(source, Mapping):
        content, where = source, 'a state dict'
    else:
        content, where = read_checkpoint(local_file(source)), str(source)
    try:
        fitted = fit_model(content, model, entry)
        keep_initial_values(fitted, model.state_dict(), fresh)
    except CheckpointError as error:
        raise CheckpointError(f'{where}: {error}') from error
    refuse_misfits(fitted, model, where)
    return fitted, where


def report_of(fitted: Fitted, where: str, model: nn.Module) -> LoadReport:
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
        converted=changed_precision(given, model.state_dict()),
        not_finite=broken_values(given),
    )


def describe_not_finite(counts: Mapping[str, int]) -> str:
    """A sentence on NaN and infinite values, from their number in each tensor."""
    total = sum(counts.values())
    return f'{total} values of {len(counts)} tensors are NaN or infinite, so the outputs will be: {first_names(list(counts))}'


def keep_initial_values(fitted: Fitted, target: Mapping[str, Tensor], starts: tuple[str, ...]) -> None:
    """Replace what the file has for names that begin with one of `starts` by the model's values.

    Raises:
        CheckpointError: nothing begins so, in the model or the file.
    """
    for start in starts:
        if not any(name.startswith(start) for name in (*target, *fitted.state)):
            raise CheckpointError(
                f"fresh: neither model nor file has a name that begins with '{start}'; it has {first_names(list(target))}"
            )
    theirs = {ours: name for name, ours in fitted.renamed.items()}
    for name in [name for name in fitted.state if name.startswith(tuple(starts)) and name not in fitted.fresh]:
        del fitted.state[name]
        fitted.resized.pop(name, None)
        fitted.renamed.pop(theirs.get(name), None)
        fitted.dropped[theirs.get(name, name)] = AS_ASKED
    asked = {name: value for name, value in target.items() if name.startswith(tuple(starts))}
    fitted.state.update(asked)
    fitted.fresh.update(dict.fromkeys(asked, AS_ASKED))


def refuse_misfits(fitted: Fitted, model: nn.Module, where: str) -> None:
    """Raise a CheckpointError that lists every name without a counterpart and every shape that differs."""
    target, state = model.state_dict(), fitted.state
    misshapen = [n for n in state if n in target and state[n].shape != target[n].shape]
    groups = {
        'in the file, unknown to the model': [n for n in state if n not in target],
        'in the model, not in the file': [n for n in target if n not in state],
        'of no use here': [f'{name} ({why})' for name, why in unusable(state, target).items()],
        'of another shape': [f'{n} {tuple(state[n].shape)}, model {tuple(target[n].shape)}' for n in misshapen],
    }
    if any(groups.values()):
        arch = getattr(getattr(model, 'backbone', model), 'arch_name', None)
        told = [f'  {len(names)} {what}: {first_names(names)}' for what, names in groups.items() if names]
        if misshapen and all(state[n].shape[1:] == target[n].shape[1:] for n in misshapen):  # of a wrong arch inputs differ too
            layers = dict.fromkeys(f"'{n.rpartition('.')[0]}.'," for n in misshapen)
            told.append(f'  The file is for another number of classes. To fine-tune: load_weights(..., fresh=({" ".join(layers)}))')
        raise CheckpointError(
            f'{where} does not fit {type(model).__name__}{f" {arch}" if arch else ""}; nothing was loaded. '
            f'It looks like {describe(state)}; check the arch and that the file is whole.\n' + '\n'.join(told)
        )


def first_names(names: list[str]) -> str:
    """The first few of the names."""
    return ', '.join(names[:LISTED]) + (f' and {len(names) - LISTED} more' if len(names) > LISTED else '')


def adapt_checkpoint(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a checkpoint in the names and filter sizes of `model`; for `load_from` and `resume` in a Runner.

    Raises:
        CheckpointError: the model has one of our backbones and the file holds another network.
    """
    return fit_model(state_dict, model).state


# A hook that stops a run whose checkpoint does not fit the model, before the first iteration.
#
# mmengine loads with `strict=False` and only warns, so that a file of another model leaves the network as it was initialised.


@dataclass
class Fit:
    """How a state dict fits a model: names of the model's tensors by their fate."""

    filled: list
    missing: list
    misshapen: list
    unexpected: list

    @property
    def unfilled(self):
        return [*self.missing, *self.misshapen]


def load_and_compare(model, state_dict):
    """Load what fits, through the model's own load hooks, and tell the fate of every tensor of the model.

    The comparison is the loading itself because a hook may rename or resize what it is given; names alone would not tell.
    """
    missing, unexpected, errors = [], [], []

    def load(module, tensors, prefix):
        module._load_from_state_dict(tensors, prefix, {}, True, missing, unexpected, errors)
        for name, child in module._modules.items():
            if child is not None:
                start = f'{prefix}{name}.'
                load(child, {key: value for key, value in tensors.items() if key.startswith(start)}, start)

    load(model, dict(state_dict), '')
    names = [name for name in model.state_dict() if not name.endswith('num_batches_tracked')]
    missing = [name for name in names if name in set(missing)]
    misshapen = [name for name in names if any(f' {name}:' in error or f'"{name}"' in error for error in errors)]
    unfilled = {*missing, *misshapen}
    return Fit([name for name in names if name not in unfilled], missing, misshapen, unexpected)


def load_checked(model, checkpoint, source, strict, training=False):
    """Load a checkpoint, in any published layout, and return its tensors in the model's names.

    Args:
        source: what the messages call it.
        strict: whether the heads must be filled too; otherwise a warning names what is not.
        training: whether NaN and infinite values are worth a warning; otherwise they are an error, as no score would mean anything.

    Raises:
        CheckpointMismatchError: nothing fits, or a tensor that must be filled is not, or its values are of no use; lists which.
    """
    own = model.state_dict()
    meant = broken_values(own)  # masks of minus infinity, for example
    try:
        held = unwrap(checkpoint)
        adapted = adapt_checkpoint(held, model)
    except CheckpointError as error:
        raise CheckpointMismatchError(f'{source}: {error}') from error
    if useless := unusable(adapted, own):
        told = [f'{name} ({why})' for name, why in useless.items()]
        raise CheckpointMismatchError(f'{source} holds {len(told)} tensors of no use to the model: {first_names(told)}.')
    fit = load_and_compare(model, adapted)
    backbone = [name for name in fit.unfilled if name.startswith('backbone.')]
    if not fit.filled or backbone or (strict and fit.unfilled):
        raise CheckpointMismatchError(misfit_message(fit, held, source))
    broken = broken_values({name: adapted[name] for name in fit.filled if name in adapted and name not in meant})
    if broken and not training:
        raise CheckpointMismatchError(
            f'{source}: {describe_not_finite(broken)}. Give an earlier checkpoint, or download the file again.'
        )
    if broken:
        print_log(f'{source}: {describe_not_finite(broken)}.', logger='current', level=logging.WARNING)
    if fit.unfilled:
        print_log(
            f'{source}: {len(fit.unfilled)} tensors outside the backbone are not in it or of another shape there, and start '
            f'from their initialisation: {first_names(fit.unfilled)}.',
            logger='current',
            level=logging.WARNING,
        )
    return adapted


def misfit_message(fit, held, source):
    """The message of a misfit: counts, some names of each kind, and what the file seems to hold."""
    total = len(fit.filled) + len(fit.unfilled)
    lines = [f'the checkpoint {source} does not fit the model: it fills {len(fit.filled)} of the {total} tensors.']
    for title, names in (
        ('The model has no values for', fit.missing),
        ('Of another shape in the file', fit.misshapen),
        ('The model has no place for', fit.unexpected),
    ):
        if names:
            lines.append(f'  {title} ({len(names)}): {first_names(names)}')
    parts = Counter(name.split('.')[0] for name in held)
    content = ', '.join(f'{part} ({count})' for part, count in parts.most_common(5))
    lines.append(f'  The file holds {len(held)} tensors: {content}; they look like {describe(held)}.')
    lines.append('Give a checkpoint of this model, or the config that the checkpoint was made from.')
    return '\n'.join(lines)

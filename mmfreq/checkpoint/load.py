"""Load published weights strictly, and say what was done."""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike

from torch import Tensor, nn

from mmfreq.checkpoint.download import local_file
from mmfreq.checkpoint.fit import Fitted, fit_model
from mmfreq.checkpoint.rules import describe
from mmfreq.checkpoint.values import broken_values, changed_precision, unusable
from mmfreq.compat.safe_load import CheckpointError, read_checkpoint

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
            lines.append(f'  WARNING: {told_not_finite(self.not_finite)}')
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
        warnings.warn(f'{where}: {told_not_finite(report.not_finite)}', stacklevel=2)
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
        leave_fresh(fitted, model.state_dict(), fresh)
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


def told_not_finite(counts: Mapping[str, int]) -> str:
    """A sentence on NaN and infinite values, from their number in each tensor."""
    total = sum(counts.values())
    return f'{total} values of {len(counts)} tensors are NaN or infinite, so the outputs will be: {listed(list(counts))}'


def leave_fresh(fitted: Fitted, target: Mapping[str, Tensor], starts: tuple[str, ...]) -> None:
    """Replace what the file has for names that begin with one of `starts` by the model's values.

    Raises:
        CheckpointError: nothing begins so, in the model or the file.
    """
    for start in starts:
        if not any(name.startswith(start) for name in (*target, *fitted.state)):
            raise CheckpointError(
                f"fresh: neither model nor file has a name that begins with '{start}'; it has {listed(list(target))}"
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
        told = [f'  {len(names)} {what}: {listed(names)}' for what, names in groups.items() if names]
        if misshapen and all(state[n].shape[1:] == target[n].shape[1:] for n in misshapen):  # of a wrong arch inputs differ too
            layers = dict.fromkeys(f"'{n.rpartition('.')[0]}.'," for n in misshapen)
            told.append(f'  The file is for another number of classes. To fine-tune: load_weights(..., fresh=({" ".join(layers)}))')
        raise CheckpointError(
            f'{where} does not fit {type(model).__name__}{f" {arch}" if arch else ""}; nothing was loaded. '
            f'It looks like {describe(state)}; check the arch and that the file is whole.\n' + '\n'.join(told)
        )


def listed(names: list[str]) -> str:
    """The first few of the names."""
    return ', '.join(names[:LISTED]) + (f' and {len(names) - LISTED} more' if len(names) > LISTED else '')


def adapt_checkpoint(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a checkpoint in the names and filter sizes of `model`; for `load_from` and `resume` in a Runner.

    Raises:
        CheckpointError: the model has one of our backbones and the file holds another network.
    """
    return fit_model(state_dict, model).state

"""Load published weights strictly, and say what was done."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike

from torch import Tensor, nn

from mmfreq.checkpoint.fit import Fitted, fit_model
from mmfreq.checkpoint.rules import describe
from mmfreq.compat.safe_load import CheckpointError, read_checkpoint

LISTED = 8  # names shown of a long list


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        source: the file, or 'a state dict'.
        layout: recognised layout.
        loaded: number of parameters and buffers filled from the source.
        renamed, resized, dropped, fresh: as in `Fitted`.
    """

    source: str
    layout: str
    loaded: int
    renamed: dict[str, str]
    resized: dict[str, tuple[tuple, tuple]]
    dropped: dict[str, str]
    fresh: dict[str, str]

    def __str__(self) -> str:
        lines = [f'{self.loaded} tensors from {self.source} ({self.layout or "own"} layout), {len(self.renamed)} renamed']
        lines += [f'  resized {name}: {old} to {new}' for name, (old, new) in self.resized.items()]
        lines += [f'  dropped {name}: {why}' for name, why in self.dropped.items()]
        lines += [f'  not in the file {name}: {why}' for name, why in self.fresh.items()]
        return '\n'.join(lines)


def load_weights(model: nn.Module, source: str | PathLike | Mapping[str, Tensor]) -> LoadReport:
    """Fill `model` from a checkpoint in any published layout.

    Args:
        model: one of our backbones or classifiers, or a segmentor or detector around one.
        source: path or URL of a file, or its content: a state dict, bare or under 'state_dict' or 'model'.

    Returns:
        What was renamed, resized, dropped, and what the file cannot hold and keeps its initial value.

    Raises:
        CheckpointError: unreadable file, another family, a name that no rule knows, a shape that does not fit, or a parameter
            that nothing filled; the names are listed and the model is unchanged.
    """
    if isinstance(source, Mapping):
        content, where = source, 'a state dict'
    else:
        content, where = read_checkpoint(source), str(source)
    try:
        fitted = fit_model(content, model)
    except CheckpointError as error:
        raise CheckpointError(f'{where}: {error}') from error
    refuse_misfits(fitted, model, where)
    model.load_state_dict(fitted.state, strict=True)
    loaded = len(fitted.state) - len(fitted.fresh)
    return LoadReport(where, fitted.layout, loaded, fitted.renamed, fitted.resized, fitted.dropped, fitted.fresh)


def refuse_misfits(fitted: Fitted, model: nn.Module, where: str) -> None:
    """Raise a CheckpointError that lists every name without a counterpart and every shape that differs."""
    target, state = model.state_dict(), fitted.state
    groups = {
        'in the file, unknown to the model': [n for n in state if n not in target],
        'in the model, not in the file': [n for n in target if n not in state],
        'of another shape': [
            f'{n} {tuple(state[n].shape)}, model {tuple(target[n].shape)}'
            for n in state
            if n in target and state[n].shape != target[n].shape
        ],
    }
    if any(groups.values()):
        arch = getattr(getattr(model, 'backbone', model), 'arch_name', None)
        told = [f'  {len(names)} {what}: {listed(names)}' for what, names in groups.items() if names]
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
        CheckpointError: the model has one of our backbones and the file holds none of its family.
    """
    return fit_model(state_dict, model).state

"""Speed counts only for the same outputs: what a model gives, beside what the published formulation gives with the same weights.

The reference runs on the CPU in float32, where its meaning is sure, on one image: outputs at the size that is measured, gradients
of the parameters (in training) at `GRADIENT_SIDE` at most.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from mmfreq.analysis.benchmark.precision import Call, images_of, made
from mmfreq.analysis.benchmark.subjects import BASELINE, OURS, THEIRS, Entry

OUTPUT_LIMIT, GRADIENT_LIMIT = 1e-4, 1e-3  # in float32
GRADIENT_SIDE = 128
REFERENCES = (BASELINE, OURS)  # forms that the others of the same name are compared with; the first that is there


class OutputsDifferError(ValueError):
    """Two forms of one model give different outputs, so that their times cannot be compared."""


class References:
    """The models that the entries of a group are compared with. A name without a reference form is compared with nothing."""

    def __init__(self, entries: Iterable[Entry]):
        self._entries: dict[str, Entry] = {}
        for entry in sorted(entries, key=lambda entry: entry.subject.form != BASELINE):
            if entry.precision == 'fp32' and entry.subject.form in REFERENCES:
                self._entries.setdefault(entry.subject.name, entry)
        self._models: dict[str, nn.Module] = {}
        self._values: dict[tuple, list[Tensor]] = {}

    def errors(self, call: Call) -> tuple[float | None, float | None]:
        """Relative errors of outputs and gradients; None where there is nothing to compare, or to compare with.

        Raises:
            OutputsDifferError: a form of ours is off in float32.
        """
        entry = call.entry
        reference = self._entries.get(entry.subject.name)
        if reference is None:
            return None, None
        itself = (entry.subject.form, entry.precision) == (reference.subject.form, 'fp32')
        if itself and call.device.type == 'cpu':
            return None, None
        of_outputs = self._error(call, reference, outputs, entry.size, OUTPUT_LIMIT)
        if not call.training or names(call.model) != names(self._model(reference)):
            return of_outputs, None
        small = tuple(min(side, GRADIENT_SIDE) for side in entry.size)
        return of_outputs, self._error(call, reference, gradients, small, GRADIENT_LIMIT)

    def _error(self, call: Call, reference: Entry, values: Callable, size: tuple[int, int], limit: float) -> float:
        key = (reference.subject.name, values, size)
        if key not in self._values:
            self._values[key] = values(Call(self._model(reference), images_of(size, 1), reference), size)
        error = relative_error(values(call, size), self._values[key])
        entry = call.entry
        if entry.precision == 'fp32' and entry.subject.form not in THEIRS and not error <= limit:
            raise OutputsDifferError(
                f'{entry.label} and {reference.subject.form} have the same weights and give different {values.__name__} in '
                f'{entry.mode}: relative error {error:.1e}, at most {limit:.0e} expected in float32; their times cannot be '
                f'compared, nothing more is measured'
            )
        return error

    def _model(self, entry: Entry) -> nn.Module:
        if entry.subject.name not in self._models:
            self._models[entry.subject.name] = made(entry)
        return self._models[entry.subject.name]


def names(model: nn.Module) -> list[str]:
    """Of the parameters, in order; torch.compile's wrapper adds nothing to them."""
    return sorted(name.removeprefix('_orig_mod.') for name, _ in model.named_parameters())


def outputs(call: Call, size: tuple[int, int]) -> list[Tensor]:
    """Of an image of a size."""
    return [output.detach() for output in call.forward(images_of(size, 1).to(call.device))]


def gradients(call: Call, size: tuple[int, int]) -> list[Tensor]:
    """All in one, so that a parameter that hardly matters does not decide; in the order of the names."""
    small = Call(call.model, images_of(size, 1).to(call.device), call.entry)
    small()
    found = [p.grad.float().flatten().cpu() for _, p in sorted(small.model.named_parameters()) if p.grad is not None]
    small.clear()
    return [torch.cat(found)]


def relative_error(values: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The norm of the difference over the norm of the reference, of the worst tensor.

    Infinite if numbers or shapes of tensors differ, or a value is not finite.
    """
    if [v.shape for v in values] != [r.shape for r in reference] or not reference:
        return float('inf')
    worst = 0.0
    for value, want in zip(values, reference):
        value, want = (tensor.to('cpu', torch.float64) for tensor in (value, want))
        error = ((value - want).norm() / want.norm().clamp_min(1e-30)).item()
        worst = max(worst, error if error == error else float('inf'))
    return worst

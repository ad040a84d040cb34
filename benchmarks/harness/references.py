"""The check before timing: outputs and gradients must equal those of the reference.

The reference runs on a CPU in float32, on one image: outputs are compared at the measured size, gradients of the parameters (in
training) at `GRADIENT_SIDE` at most.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.harness.entries import EXTERNAL, MMFREQ, REFERENCE, Call, Entry, build_model, random_images

OUTPUT_LIMIT, GRADIENT_LIMIT = 1e-4, 1e-3  # in float32
GRADIENT_SIDE = 128
REFERENCES = (REFERENCE, MMFREQ)  # forms that others with the same name are compared with, in this order


class OutputsDifferError(ValueError):
    """Two forms of one model return different outputs, so their times cannot be compared."""


class ReferenceModels:
    """The models that the entries of a group are compared with; a name without a reference form is not compared."""

    def __init__(self, entries: Iterable[Entry]):
        self._entries: dict[str, Entry] = {}
        for entry in sorted(entries, key=lambda entry: entry.model.form != REFERENCE):
            if entry.precision == 'fp32' and entry.model.form in REFERENCES:
                self._entries.setdefault(entry.model.name, entry)
        self._models: dict[str, nn.Module] = {}
        self._values: dict[tuple, list[Tensor]] = {}

    def errors(self, call: Call) -> tuple[float | None, float | None]:
        """Relative errors of outputs and gradients; None where there is no reference, or no gradients with the same names.

        Raises:
            OutputsDifferError: a form of mmfreq exceeds the limit in float32.
        """
        entry = call.entry
        reference = self._entries.get(entry.model.name)
        if reference is None:
            return None, None
        is_reference = (entry.model.form, entry.precision) == (reference.model.form, 'fp32')
        if is_reference and call.device.type == 'cpu':
            return None, None
        output_error = self._error(call, reference, outputs, entry.size, OUTPUT_LIMIT)
        if not call.training or parameter_names(call.model) != parameter_names(self._model(reference)):
            return output_error, None
        small = tuple(min(side, GRADIENT_SIDE) for side in entry.size)
        return output_error, self._error(call, reference, gradients, small, GRADIENT_LIMIT)

    def _error(self, call: Call, reference: Entry, values: Callable, size: tuple[int, int], limit: float) -> float:
        key = (reference.model.name, values, size)
        if key not in self._values:
            self._values[key] = values(Call(self._model(reference), random_images(size, 1), reference), size)
        error = relative_error(values(call, size), self._values[key])
        entry = call.entry
        if entry.precision == 'fp32' and entry.model.form not in EXTERNAL and not error <= limit:
            raise OutputsDifferError(
                f'{entry.label} and {reference.model.form} have the same weights and return different {values.__name__} in '
                f'{entry.mode}: expected a relative error of at most {limit:.0e} in float32, found {error:.1e}. '
                'Their times cannot be compared, and nothing was measured.'
            )
        return error

    def _model(self, entry: Entry) -> nn.Module:
        if entry.model.name not in self._models:
            self._models[entry.model.name] = build_model(entry)
        return self._models[entry.model.name]


def parameter_names(model: nn.Module) -> list[str]:
    """Sorted names of the parameters, without the prefix of torch.compile's wrapper."""
    return sorted(name.removeprefix('_orig_mod.') for name, _ in model.named_parameters())


def outputs(call: Call, size: tuple[int, int]) -> list[Tensor]:
    """The outputs for one image of a size."""
    return [output.detach() for output in call.forward(random_images(size, 1).to(call.device))]


def gradients(call: Call, size: tuple[int, int]) -> list[Tensor]:
    """The gradients of all parameters in one tensor, so that unimportant parameters do not dominate the error."""
    small = Call(call.model, random_images(size, 1).to(call.device), call.entry)
    small()
    found = [p.grad.float().flatten().cpu() for _, p in sorted(small.model.named_parameters()) if p.grad is not None]
    small.clear()
    return [torch.cat(found)]


def relative_error(values: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The largest norm of a difference over the norm of its reference, over all tensors.

    Infinite if the numbers or shapes of tensors differ, or a value is not finite.
    """
    if [v.shape for v in values] != [r.shape for r in reference] or not reference:
        return float('inf')
    worst = 0.0
    for value, expected in zip(values, reference):
        value, expected = (tensor.to('cpu', torch.float64) for tensor in (value, expected))
        error = ((value - expected).norm() / expected.norm().clamp_min(1e-30)).item()
        worst = max(worst, error if error == error else float('inf'))
    return worst

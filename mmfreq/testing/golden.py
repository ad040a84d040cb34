"""Golden files: outputs of the published code on weights and inputs that are rebuilt from names, shapes and seeds."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmfreq.testing.reference_weights import reference_input, reference_state, relative_error


def read_golden(folder: Path, name: str) -> dict:
    """The golden file `name`.json.

    Raises:
        FileNotFoundError: it is missing; says how golden files are made.
    """
    path = Path(folder) / f'{name}.json'
    if not path.is_file():
        raise FileNotFoundError(
            f'golden file {path} is missing. Make it by running the published code on reference_state(shapes) and '
            f'reference_input(seed, shape) and keeping summarize(output) of each output (mmfreq.testing.reference_weights)'
        )
    return json.loads(path.read_text())


def golden_state(shapes: Mapping[str, Sequence[int]], scale: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """A checkpoint rebuilt from `{name: shape}`; parameters whose name contains a key of `scale` are multiplied by its value."""
    state = {name: torch.as_tensor(value) for name, value in reference_state(shapes).items()}
    for part, factor in (scale or {}).items():
        for name in state:
            if part in name:
                state[name] = state[name] * torch.tensor(factor, dtype=torch.float32)
    return state


def golden_inputs(case: Mapping) -> list[Tensor]:
    """The inputs of a case in torch's default dtype: one image or map, or one map for each level."""
    inputs = case.get('inputs') or [{'seed': case['input_seed'], 'shape': case['input_shape']}]
    scale = np.float32(case.get('input_scale', 1))
    return [torch.from_numpy(scale * reference_input(i['seed'], i['shape'])).to(torch.get_default_dtype()) for i in inputs]


def golden_loss(outputs: Iterable[Tensor]) -> Tensor:
    """The loss of golden gradients: the sum of mean(output * reference_input(99, its shape))."""
    return sum((out * torch.from_numpy(reference_input(99, out.shape)).to(out.dtype)).mean() for out in outputs)


def worst_error(outputs: Iterable[Tensor], golden: Sequence[Mapping]) -> tuple[float, str]:
    """(relative error, name) of the output that is farthest from its golden summary.

    Raises:
        ValueError: another number of outputs.
    """
    outputs = list(outputs)
    if len(outputs) != len(golden) or not golden:
        raise ValueError(f'got {len(outputs)} outputs, the golden case has {len(golden)}')
    return max((relative_error(o.detach().cpu().numpy(), g), g['name']) for o, g in zip(outputs, golden))

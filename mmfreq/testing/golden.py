"""Golden numbers: outputs, losses and gradients of the authors' code, how they are made, compared and accepted.

1. Make: in an environment where the authors' code runs, load `reference_state(shapes)` into the model, run it on
   `reference_input(seed, shape)` in float32 on a CPU, and save `summarize(output)` of each output, with shapes and seeds, as
   `tests/golden/NAME.json`. No weights are downloaded: values depend on names, shapes and seeds only.
2. Compare: a test rebuilds weights and inputs from the file (`read_golden`, `golden_state`, `golden_inputs`), computes
   `worst_error`, and passes it to the fixture `within_limit`.
3. Accept: `LIMITS` is the only list of limits. Another instruction set or number of threads adds the same terms in another
   order, so the distance depends on the machine. `python benchmarks/golden_errors.py` measures it with AVX-512, with AVX2 and
   without either, with one and two threads, and in float64, where the rounding of the golden files remains; it writes
   `docs/measurements/golden_errors.md`. A limit is at least 1.5 times the largest distance there, and for outputs at most 4e-6
   (HorNet) or 2e-5 (other families). `tests/testing/test_golden_limits.py` checks both.
"""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# What is compared -> largest accepted distance: norm of the difference over the norm; absolute where the key says it
LIMITS = {
    'hornet outputs': 4e-6,
    'hornet gradients': 1e-5,
    'hornet loss': 1e-5,
    'gfnet outputs': 1e-5,
    'gfnet gradients': 1e-5,
    'gfnet loss': 3e-5,  # a mean of terms of both signs that nearly cancel
    'dfformer layers': 4e-6,
    'dfformer outputs': 1e-5,
    'dfformer gradients': 7e-5,  # the files' own rounding is up to 1.6e-5
    'dfformer loss (absolute)': 2e-7,  # a small sum of terms of both signs
    'affnet outputs': 2e-5,
    'affnet gradients': 1e-5,
    'affnet loss': 1e-5,
    'reference implementation, outputs': 1e-5,
    'reference implementation, gradients': 1.5e-4,  # a StarReLU's scale is one number with a gradient of terms of both signs
    'affnet decoders': 4e-6,
}

# Substrings of parameter names that are the scale of a residual branch, not the weight of a norm.
BRANCH_SCALES = ('gamma', 'layer_scale')


def reference_array(name: str, shape: Sequence[int]) -> np.ndarray:
    """The value of the parameter or buffer `name`: float32, from NumPy's PCG64, whose stream is the same in every version."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    x = rng.standard_normal(tuple(shape))
    leaf = name.rsplit('.', 1)[-1]
    if leaf == 'num_batches_tracked':
        return np.zeros(tuple(shape), dtype=np.int64)
    if leaf == 'running_mean':
        x = 0.1 * x
    elif leaf == 'running_var':
        x = 1 + 0.1 * np.abs(x)
    elif 'complex_weight' in name:
        x = 0.5 * x
    elif 'pos_embed' in name:
        x = 0.1 * x
    elif any(word in name for word in BRANCH_SCALES):
        x = 0.3 + 0.1 * x
    elif x.ndim <= 1 and leaf in ('weight', 'scale'):
        x = 1 + 0.1 * x
    elif x.ndim <= 1 or leaf in ('bias', 'b1', 'b2'):
        x = 0.02 * x
    elif leaf in ('w1', 'w2'):  # block-diagonal complex matrices: (2, blocks, in, out)
        x = x / np.sqrt(x.shape[-2])
    else:
        x = x / np.sqrt(max(1, int(np.prod(x.shape[1:]))))
    return x.astype(np.float32)


def reference_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """A checkpoint as numpy arrays from `{name: shape}`."""
    return {name: reference_array(name, shape) for name, shape in shapes.items()}


def reference_input(seed: int, shape: Sequence[int]) -> np.ndarray:
    """A standard normal input, float32, for example of shape (N, 3, H, W)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.standard_normal(tuple(shape)).astype(np.float32)


def summarize(array: np.ndarray, samples: int = 64) -> dict:
    """What a golden file stores of an output: shape, mean, standard deviation and `samples` of its values."""
    flat = np.asarray(array, dtype=np.float64).ravel()
    at = np.linspace(0, flat.size - 1, min(samples, flat.size)).astype(np.int64)
    return {
        'shape': list(array.shape),
        'mean': float(flat.mean()),
        'std': float(flat.std()),
        'samples': [float(v) for v in flat[at]],
    }


def read_golden(folder: Path, name: str) -> dict:
    """The golden file `name`.json.

    Raises:
        FileNotFoundError: the file is missing; the message explains how to make it.
    """
    path = Path(folder) / f'{name}.json'
    if not path.is_file():
        raise FileNotFoundError(
            f"The golden file {path} is missing. Make it by running the authors' code on reference_state(shapes) and "
            f'reference_input(seed, shape), and save summarize(output) of each output; see mmfreq.testing.golden.'
        )
    return json.loads(path.read_text())


def golden_state(shapes: Mapping[str, Sequence[int]], scale: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """A checkpoint from `{name: shape}`; parameters whose name contains a key of `scale` are multiplied by its value."""
    state = {name: torch.as_tensor(value) for name, value in reference_state(shapes).items()}
    for part, factor in (scale or {}).items():
        for name in state:
            if part in name:
                state[name] = state[name] * torch.tensor(factor, dtype=torch.float32)
    return state


def golden_inputs(case: Mapping) -> list[Tensor]:
    """The inputs of a golden case, in torch's default dtype: one image or map, or one map per level."""
    inputs = case.get('inputs') or [{'seed': case['input_seed'], 'shape': case['input_shape']}]
    scale = np.float32(case.get('input_scale', 1))
    return [torch.from_numpy(scale * reference_input(i['seed'], i['shape'])).to(torch.get_default_dtype()) for i in inputs]


def golden_loss(outputs: Iterable[Tensor]) -> Tensor:
    """The loss whose gradients are golden: the sum of mean(output * reference_input(99, its shape))."""
    return sum((out * torch.from_numpy(reference_input(99, out.shape)).to(out.dtype)).mean() for out in outputs)


def relative_error(array: np.ndarray, golden: Mapping) -> float:
    """Distance of `array` from a golden summary: norm of the samples' difference over the norm of the golden samples.

    Infinite if the shapes differ or a value is not finite.
    """
    if list(array.shape) != list(golden['shape']) or not np.isfinite(array).all():
        return float('inf')
    got = np.asarray(summarize(array, len(golden['samples']))['samples'])
    want = np.asarray(golden['samples'])
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-12))


def worst_error(outputs: Iterable[Tensor], golden: Sequence[Mapping]) -> tuple[float, str]:
    """(relative error, name) of the output with the largest distance from its golden summary.

    Raises:
        ValueError: the number of outputs is different.
    """
    outputs = list(outputs)
    if len(outputs) != len(golden) or not golden:
        raise ValueError(f'Expected {len(golden)} outputs as in the golden case, got {len(outputs)}.')
    return max((relative_error(o.detach().cpu().numpy(), g), g['name']) for o, g in zip(outputs, golden))

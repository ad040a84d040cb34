"""What the values of a checkpoint are: numbers that a model can take, in which precision, and whether they are numbers at all."""

from collections.abc import Mapping

import torch
from torch import Tensor


def unusable(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, str]:
    """Name to the reason, for tensors that `load_state_dict` would turn into something else without a word, or not take at all.

    Args:
        target: the model's own; what it does not have is passed over.
    """
    found = {name: why_unusable(value, target[name]) for name, value in state.items() if name in target}
    return {name: why for name, why in found.items() if why}


def why_unusable(value: Tensor, own: Tensor) -> str:
    """The reason why `value` cannot be put where `own` is; '' if it can."""
    kind = str(value.dtype).removeprefix('torch.')
    if value.layout != torch.strided:
        return f'sparse {kind}'
    if value.is_meta and not own.is_meta:
        return 'saved without its values, from the meta device'
    if own.is_floating_point() and not value.is_floating_point():
        return f'{kind}, the model has real numbers'
    if not own.is_complex() and value.is_complex():
        return f'{kind}, the model has {str(own.dtype).removeprefix("torch.")}'
    return ''


def changed_precision(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, str]:
    """Name to the dtype, such as 'float16', of tensors of another dtype than the model's."""
    other = {name: value.dtype for name, value in state.items() if name in target and value.dtype != target[name].dtype}
    return {name: str(dtype).removeprefix('torch.') for name, dtype in other.items()}


def broken_values(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Name to the number of values that are NaN or infinite, of tensors that have any. 0.1 s for 100 million values."""
    numbers = {name: value for name, value in state.items() if value.is_floating_point() and value.layout == torch.strided}
    counts = {}
    for name, value in numbers.items():
        value = value.float() if value.dtype.itemsize == 1 else value  # little is written for 8 bits
        if not value.is_meta and not torch.isfinite(value.sum(dtype=torch.float64)):  # the sum first: it needs no memory
            counts[name] = int((~torch.isfinite(value)).sum())
    return {name: count for name, count in counts.items() if count}

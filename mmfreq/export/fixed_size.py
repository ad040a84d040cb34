"""A model for images of one size: filters stored at the grids that they have there, one spectral backend everywhere."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from mmfreq.layers.stored_filter import StoredFilter
from mmfreq.ops import SPECTRAL_BACKENDS


@torch.no_grad()
def at_fixed_size(model: nn.Module, images: Tensor, backend: str = 'matmul') -> nn.Module:
    """A copy of `model` in eval mode that gives the same for images of this size, and resizes no filter any more.

    Args:
        images: an input, as the model takes it; it is run once.
        backend: of the spectral operator, see `mmfreq.ops.apply_filter`.

    Raises:
        ValueError: unknown backend; a filter that is used on maps of several sizes.
    """
    if backend not in SPECTRAL_BACKENDS:
        raise ValueError(f"spectral backend '{backend}' is unknown; choose one of {', '.join(SPECTRAL_BACKENDS)}")
    model = copy.deepcopy(model).eval()
    filters = {name: module for name, module in model.named_modules() if isinstance(module, StoredFilter)}
    with _sizes_noted(filters) as sizes:
        model(images)
    for name, module in filters.items():
        if len(sizes[name]) > 1:
            raise ValueError(f'{name} filters maps of several sizes, {sorted(sizes[name])}; it cannot be stored for one')
        for size in sizes[name]:
            module.store_at(size)
    for module in model.modules():
        if isinstance(getattr(module, 'spectral', None), str):
            module.spectral = backend
    return model


@contextmanager
def _sizes_noted(filters: dict[str, StoredFilter]) -> Iterator[dict[str, set[tuple[int, int]]]]:
    """Sizes of the maps that each filter is asked for."""
    sizes = {name: set() for name in filters}

    def filter_for(module: StoredFilter, seen: set, size: tuple[int, int]) -> Tensor:
        seen.add(tuple(size))
        return type(module).filter_for(module, size)

    try:
        for name, module in filters.items():
            module.filter_for = partial(filter_for, module, sizes[name])
        yield sizes
    finally:
        for module in filters.values():
            module.__dict__.pop('filter_for', None)

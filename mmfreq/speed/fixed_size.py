"""A model for images of one size: filters and position embeddings stored at the grids they have there, one spectral backend."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from mmfreq.ops import SPECTRAL_BACKENDS

LOOKUPS = ('filter_for', 'positions_for')  # methods that give what a module stores, for maps of a size; it has `store_at` too


@torch.no_grad()
def at_fixed_size(model: nn.Module, images: Tensor, backend: str | None = 'matmul', only: bool = False) -> nn.Module:
    """A copy of `model` in eval mode that gives the same for images of this size, and resizes nothing stored any more.

    Args:
        images: an input, as the model takes it; it is run once.
        backend: of the spectral operator, see `mmfreq.ops.apply_filter`; None leaves it as it is.
        only: refuse images of other sizes; without it what is stored is resized again for them.

    Raises:
        ValueError: unknown backend; a filter or embedding that is used on maps of several sizes.
    """
    if backend is not None and backend not in SPECTRAL_BACKENDS:
        raise ValueError(f"spectral backend '{backend}' is unknown; choose one of {', '.join(SPECTRAL_BACKENDS)}")
    model = copy.deepcopy(model).eval()
    with _sizes_noted(model) as sizes:
        model.extract_feat(images) if hasattr(model, 'roi_head') else model(images)  # two-stage heads want data samples
    for name, found in sizes.items():
        if len(found) > 1:
            raise ValueError(f'{name} is used on maps of several sizes, {sorted(found)}; it cannot be stored for one')
        for size in found:
            model.get_submodule(name).store_at(size)
            if only:
                model.get_submodule(name).filter_resize = 'none'
    for module in model.modules():
        if backend is not None and isinstance(getattr(module, 'spectral', None), str):
            module.spectral = backend
    return model


@contextmanager
def _sizes_noted(model: nn.Module) -> Iterator[dict[str, set[tuple[int, int]]]]:
    """Sizes of the maps for which each module is asked what it stores, by its name."""
    sizes, patched = {}, []

    def lookup(original: Callable, seen: set, size: tuple[int, int]) -> Tensor:
        seen.add(tuple(size))
        return original(size)

    try:
        for name, module in model.named_modules():
            for method in (method for method in LOOKUPS if hasattr(module, method)):
                sizes[name] = set()
                setattr(module, method, partial(lookup, getattr(module, method), sizes[name]))
                patched.append((module, method))
        yield sizes
    finally:
        for module, method in patched:
            delattr(module, method)

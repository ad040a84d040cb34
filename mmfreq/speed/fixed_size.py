"""A model for one image size: filters and position embeddings are stored at their final grids, with one spectral backend.

With the backend 'matmul' the model has no FFT operator: this is how FFT is kept out of ONNX files.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from mmfreq.ops import SPECTRAL_BACKENDS

LOOKUPS = ('filter_for', 'positions_for')  # methods of modules that resize a stored parameter to a size and have `store_at`


@torch.no_grad()
def at_fixed_size(
    model: nn.Module, images: Tensor, backend: str | None = 'matmul', only: bool = False, further: Sequence[Tensor] = ()
) -> nn.Module:
    """A copy of `model` in eval mode whose filters and position embeddings are stored for images of this size.

    Args:
        images: an input of the model; the model is run on it once.
        backend: of the spectral operator, see `mmfreq.ops.apply_filter`; None does not change it.
        only: raise an error for images of other sizes; by default the stored parameters are resized again for them.
        further: inputs of the model after the images.

    Raises:
        ValueError: unknown backend; a filter or embedding used on maps of several sizes.
    """
    if backend is not None and backend not in SPECTRAL_BACKENDS:
        raise ValueError(f"spectral backend '{backend}' is unknown; choose one of {', '.join(SPECTRAL_BACKENDS)}")
    model = copy.deepcopy(model).eval()
    with _record_sizes(model) as sizes:
        model.extract_feat(images) if hasattr(model, 'roi_head') else model(images, *further)  # needs data samples
    for name, found in sizes.items():
        if len(found) > 1:
            raise ValueError(f'{name} is used on maps of several sizes, {sorted(found)}; it cannot be stored for one size')
        for size in found:
            model.get_submodule(name).store_at(size)
            if only:
                model.get_submodule(name).filter_resize = 'none'
    for module in model.modules():
        if backend is not None and isinstance(getattr(module, 'spectral', None), str):
            module.spectral = backend
    return model


@contextmanager
def _record_sizes(model: nn.Module) -> Iterator[dict[str, set[tuple[int, int]]]]:
    """{name of a module: sizes of the maps that it resizes its stored parameter to}, recorded within the context."""
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

"""The spectral operator: to the spectrum, multiply or map, back to the same grid.

One operator serves every family (GFNet section 3.2, HorNet section 3.2). It computes in float32 (float64 for float64 input) with
autocast off, uses `norm='ortho'` both ways, always gives the size of the inverse, and returns the input's dtype.

The inverse has one meaning, also for spectra that are not Hermitian: see `ops/transforms.py`.

Legend: H W grid, F = W // 2 + 1 half width. `dims` are the positions of H and W in the tensor.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mmfreq.ops.dft import filter_by_matmul, map_by_matmul
from mmfreq.ops.fusing import may_fuse
from mmfreq.ops.spectral_filter import filter_by_fft, filter_by_mixture
from mmfreq.ops.transforms import half_width, irfft2, rfft2
from mmfreq.ops.triton_spectral import fused_filter, supported

SPECTRAL_BACKENDS = ('auto', 'fft', 'matmul', 'triton')


def apply_filter(x: Tensor, weight: Tensor, dims: tuple[int, int] = (-2, -1), backend: str = 'auto') -> Tensor:
    """Circular convolution of `x` with the transfer function `weight`.

    Args:
        x: real map.
        weight: real view of the filter's half spectrum; the last axis holds (real, imaginary) and the others broadcast against
            the spectrum of `x`. For an NCHW map `(C, H, F, 2)`, for a channels-last map with `dims=(1, 2)` `(H, F, C, 2)`; with
            a leading batch axis, one filter for each sample.
        dims: positions of H and W in `x`.
        backend: 'fft', 'matmul' (real matrix products, no complex numbers), 'triton' (one kernel on CUDA for sides up to 128,
            `ops/triton_spectral.py`; 'fft' for maps that it does not take), or 'auto': 'fft', but 'matmul' while a model is being
            exported to ONNX.

    Shape:
        `x` of any shape and memory layout; the result has its shape and dtype.

    Raises:
        ValueError: unknown backend, or a filter for another grid (resize it first with `resize_filter`).
        TypeError: an integer or complex map.
    """
    backend, work_dtype = plan(x, backend)
    dims = (dims[0] % x.ndim, dims[1] % x.ndim)
    check_grid(x, weight, dims)
    if backend == 'triton' and supported(x, weight, dims):
        return fused_filter(x, weight, dims)
    with torch.autocast(device_type=x.device.type, enabled=False):
        work, weight = x.to(work_dtype), weight.to(work_dtype)
        if backend == 'matmul':
            out = filter_by_matmul(work, weight, dims)
        elif may_fuse():
            out = filter_by_fft(work, weight, dims)
        else:
            spec = rfft2(work, dims) * torch.view_as_complex(weight.contiguous())
            out = irfft2(spec, (x.shape[dims[0]], x.shape[dims[1]]), dims)
    return out.to(x.dtype)


def apply_mixture(
    x: Tensor, routing: Tensor, filters: Tensor, backend: str = 'auto', act: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """`apply_filter` with a filter of its own for each sample and channel, mixed from a few.

    Args:
        x: real map.
        routing: coefficients of the mixture.
        filters: real view of the filters' half spectra.
        backend: as in `apply_filter`.
        act: an activation of `x` before the filter.

    Shape:
        `x` `(B, M, H, W)`, `routing` `(B, N, M)`, `filters` `(H, F, N, 2)`; the result has the shape and dtype of `x`.

    Raises:
        ValueError, TypeError: as `apply_filter`.
    """
    backend, work_dtype = plan(x, backend)
    check_grid(x, filters.permute(2, 0, 1, 3), (2, 3))
    with torch.autocast(device_type=x.device.type, enabled=False):
        routing, filters = routing.to(work_dtype), filters.to(work_dtype)
        if backend == 'fft' and may_fuse():
            return filter_by_mixture(x, routing, filters, act)
        bases = filters.movedim(2, 0).flatten(1)  # one product of matrices: not every runtime has ONNX's Einsum
        mixed = (routing.transpose(1, 2) @ bases).unflatten(2, (*filters.shape[:2], 2))
        y = x if act is None else act(x)
        return apply_filter(y.to(work_dtype), mixed, (2, 3), backend).to(x.dtype)


def map_spectrum(
    x: Tensor,
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    dims: tuple[int, int] = (-2, -1),
    backend: str = 'auto',
) -> Tensor:
    """Inverse transform of any function of the spectrum of `x`.

    Args:
        x: real map.
        function: from the real and imaginary part of the half spectrum to those of the new one, with autocast off.
        dims, backend: as in `apply_filter`.

    Shape:
        `(..., H, W)` at `dims` to the same; `function` sees `x` with F = W // 2 + 1 in place of W, and keeps it.

    Raises:
        ValueError: unknown backend.
        TypeError: an integer or complex map.
    """
    backend, work_dtype = plan(x, backend)
    dims = (dims[0] % x.ndim, dims[1] % x.ndim)
    with torch.autocast(device_type=x.device.type, enabled=False):
        work = x.to(work_dtype)
        if backend == 'matmul':
            out = map_by_matmul(work, function, dims)
        else:
            spec = rfft2(work, dims)
            out = irfft2(torch.complex(*function(spec.real, spec.imag)), (x.shape[dims[0]], x.shape[dims[1]]), dims)
    return out.to(x.dtype)


def plan(x: Tensor, backend: str) -> tuple[str, torch.dtype]:
    """The backend that 'auto' means here, and the dtype to compute in."""
    if backend not in SPECTRAL_BACKENDS:
        raise ValueError(f"spectral backend '{backend}' is unknown; choose one of {', '.join(SPECTRAL_BACKENDS)}")
    if not x.is_floating_point():
        raise TypeError(f'the map to filter must be a real floating-point tensor, got {x.dtype}')
    if backend == 'auto':
        backend = 'matmul' if torch.onnx.is_in_onnx_export() else 'fft'
    return backend, torch.float64 if x.dtype == torch.float64 else torch.float32


def check_grid(x: Tensor, weight: Tensor, dims: tuple[int, int]) -> None:
    """Refuse a filter whose stored grid is not that of the map's spectrum."""
    if weight.shape[-1:] != (2,):
        raise ValueError(f'the last axis of a filter holds (real, imaginary) and has size 2, got shape {tuple(weight.shape)}')
    height, width = x.shape[dims[0]], x.shape[dims[1]]
    at = tuple(d - x.ndim - 1 for d in dims)  # counted from the end, past the (real, imaginary) axis
    got = tuple(weight.shape[d] for d in at)
    if got != (height, half_width(width)):
        raise ValueError(
            f'a filter of half-spectrum size {got} cannot act on a {height}x{width} map, which needs '
            f'{(height, half_width(width))}; resize it with mmfreq.ops.resize_filter'
        )

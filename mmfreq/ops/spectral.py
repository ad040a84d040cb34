"""The spectral operator of every family: transform a real map, multiply or change its spectrum, transform back.

    y = irfft2(K * rfft2(x))                 apply_filter: K a learned filter (GFNet, HorNet, sections 3.2)
    y = irfft2((sum_n r_n K_n) * rfft2(x))   apply_mixture: r_n of each sample and channel (DFFormer)
    y = irfft2(f(rfft2(x)))                  map_spectrum: f a network (AFFNet, AFNO)

It computes in float32 (float64 for float64 input) with autocast off and `norm='ortho'`, and returns the input's dtype.

The spectrum to invert is not Hermitian: the product with a learned filter violates the symmetry in the zero column and, for even W,
in the Nyquist column. The inverse is defined alike on every device: complex inverse over H, the imaginary part of those two columns
dropped, real inverse over W. On a CPU `torch.fft.irfft2` computes this. Other devices may treat the two columns differently, so
they get their Hermitian part (`hermitian_columns`).

The backend 'matmul' computes the same with real matrix products, without complex numbers or FFT operators. `mmfreq.export` sets it
(`at_fixed_size`), and 'auto' selects it during a `torch.onnx.export` (`resolve_backend`), so that exported graphs contain no FFT.
With real (W, F) and (H, H) bases of cosines and sines it transforms over W, then over H, and back. In the inverse the zero and
Nyquist columns count once and the others twice.

Legend: H W grid, F = W // 2 + 1 half width. `dims` are the positions of H and W in the tensor.
"""

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor
from torch.autograd.function import Function

from mmfreq.ops import open_size
from mmfreq.ops.autocast import without_autocast

SPECTRAL_BACKENDS = ('auto', 'fft', 'matmul')
SpectralMap = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (real, imaginary) of a spectrum to those of another


def half_width(width: int) -> int:
    """Number of columns F in the half spectrum of a grid of `width` columns."""
    return width // 2 + 1


def apply_filter(x: Tensor, weight: Tensor, dims: tuple[int, int] = (-2, -1), backend: str = 'auto') -> Tensor:
    """Circular convolution of `x` with the transfer function `weight`.

    Args:
        x: real map.
        weight: real view of the filter's half spectrum: the last axis is (real, imaginary), the others broadcast against the
            spectrum of `x`. It is `(C, H, F, 2)` for an NCHW map and `(H, F, C, 2)` for a channels-last map with
            `dims=(1, 2)`; a leading batch axis gives one filter per sample.
        dims: positions of H and W in `x`.
        backend: 'fft', 'matmul' (real matrix products), or 'auto': 'fft', but 'matmul' during an export to ONNX.

    Shape:
        `x` may have any shape and memory layout; the result has its shape and dtype.

    Raises:
        ValueError: unknown backend, or a filter for another grid (resize it first with `resize_filter`).
        TypeError: an integer or a complex map.
    """
    backend, dtype = resolve_backend(x, backend)
    dims = (dims[0] % x.ndim, dims[1] % x.ndim)
    check_grid(x, weight, dims)
    with without_autocast(x):
        weight = weight.to(dtype)
        if backend == 'matmul':
            weight_re, weight_im = weight.unbind(-1)
            return map_by_matmul(x.to(dtype), lambda re, im: complex_product(re, im, weight_re, weight_im), dims).to(x.dtype)
        return irfft2(rfft2(x.to(dtype), dims) * as_complex(weight), (x.shape[dims[0]], x.shape[dims[1]]), dims).to(x.dtype)


def apply_mixture(x: Tensor, routing: Tensor, filters: Tensor, backend: str = 'auto') -> Tensor:
    """`apply_filter` with another filter for each sample and channel: a mixture of N stored ones.

    Args:
        x: real map.
        routing: coefficients of the mixture.
        filters: real view of the filters' half spectra.
        backend: as in `apply_filter`.

    Shape:
        `x` `(B, M, H, W)`, `routing` `(B, N, M)`, `filters` `(H, F, N, 2)`; the result has the shape and dtype of `x`.

    Raises:
        ValueError, TypeError: as `apply_filter`.
    """
    backend, dtype = resolve_backend(x, backend)
    check_grid(x, filters.permute(2, 0, 1, 3), (2, 3))
    with without_autocast(x):
        routing, bases = routing.to(dtype), filters.to(dtype).permute(2, 0, 1, 3)  # (N, H, F, 2)
        if backend == 'matmul':
            return apply_filter(x.to(dtype), mixture(routing, bases), (2, 3), backend).to(x.dtype)
        spec = rfft2(x.to(dtype))
        product = mixture_product if is_traced() else _MixtureProduct.apply
        return irfft2(product(spec, routing, bases), (x.shape[2], x.shape[3])).to(x.dtype)


def map_spectrum(x: Tensor, function: SpectralMap, dims: tuple[int, int] = (-2, -1), backend: str = 'auto') -> Tensor:
    """Inverse transform of a function of the spectrum of `x`.

    Args:
        x: real map.
        function: maps the real and imaginary part of the half spectrum to those of a new one; called with autocast off.
        dims, backend: as in `apply_filter`.

    Shape:
        `(..., H, W)` at `dims` to the same. `function` gets the shape of `x` with F = W // 2 + 1 in place of W, and keeps it.

    Raises:
        ValueError: unknown backend.
        TypeError: an integer or a complex map.
    """
    backend, dtype = resolve_backend(x, backend)
    dims = (dims[0] % x.ndim, dims[1] % x.ndim)
    with without_autocast(x):
        if backend == 'matmul':
            return map_by_matmul(x.to(dtype), function, dims).to(x.dtype)
        spec = rfft2(x.to(dtype), dims)
        mapped = torch.complex(*function(spec.real, spec.imag))
        return irfft2(mapped, (x.shape[dims[0]], x.shape[dims[1]]), dims).to(x.dtype)


def rfft2(x: Tensor, dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """Orthonormal half spectrum of a real float32 or float64 tensor; backward is one real inverse transform.

    Shape:
        `(..., H, W)` at `dims` to complex `(..., H, F)`, DC at index 0, not shifted.
    """
    size = (x.shape[dims[0]], x.shape[dims[1]])
    if is_traced():
        return torch.fft.rfft2(x, s=size, dim=dims, norm='ortho')
    return _RealTransform.apply(x, size, dims)


def irfft2(spec: Tensor, size: tuple[int, int], dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """Orthonormal inverse of `rfft2`; spectra that are not Hermitian are treated alike on every device (see the module docstring).

    Shape:
        Complex `(..., H, F)` at `dims` to real `(..., H, W)`.
    """
    if spec.device.type != 'cpu':
        spec = hermitian_columns(spec, size[1], dims)
    return torch.fft.irfft2(spec, s=size, dim=dims, norm='ortho')


def hermitian_columns(spec: Tensor, width: int, dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """`spec` with its self-conjugate columns c(k), k the row's frequency, replaced by (c(k) + conj c(-k)) / 2."""
    step = width // 2 if width > 1 and width % 2 == 0 else spec.shape[dims[1]]  # the zero column, and Nyquist for even W
    at = [slice(None)] * spec.ndim
    at[dims[1]] = slice(None, None, step)
    found = spec[tuple(at)]
    out = spec.clone()
    out[tuple(at)] = (found + found.flip(dims[0]).roll(1, dims[0]).conj()) / 2
    return out


class _RealTransform(Function):
    """`torch.fft.rfft2` with a cheaper backward pass: torch's own transforms the full complex grid.

    With orthonormal transforms the adjoint is the inverse transform of the gradient divided by the multiplicity of its columns.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, size, dims):
        return torch.fft.rfft2(x, s=size, dim=dims, norm='ortho')

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.size, ctx.dims = inputs

    @staticmethod
    def backward(ctx, grad):
        shape = [1] * grad.ndim
        shape[ctx.dims[1]] = -1
        shares = 1 / multiplicity(ctx.size[1], grad.real.dtype, grad.device)
        return irfft2(grad * shares.view(shape), ctx.size, ctx.dims), None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        return rfft2(tangent, ctx.dims)


def mixture_product(spec: Tensor, routing: Tensor, bases: Tensor) -> Tensor:
    """A spectrum times the mixed filters of its samples and channels."""
    return spec * as_complex(mixture(routing, bases))


class _MixtureProduct(Function):
    """`mixture_product` that does not save the mixed filters, as large as the spectrum, but recomputes them in backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(spec, routing, bases):
        return mixture_product(spec, routing, bases)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        spec, routing, bases = ctx.saved_tensors
        # reshape, not flatten: flatten fails for batched gradients
        mixed = torch.view_as_real(grad * spec.conj()).reshape(*spec.shape[:2], -1)  # (B, M, H F 2)
        drouting = (mixed @ bases.reshape(len(bases), -1).t()).transpose(1, 2)
        dbases = (routing @ mixed).sum(0).reshape(bases.shape)
        return grad * as_complex(mixture(routing, bases)).conj(), drouting, dbases

    @staticmethod
    def jvp(ctx, dspec, drouting, dbases):
        spec, routing, bases = ctx.saved_tensors
        dmixture = mixture(drouting, bases) + mixture(routing, dbases)
        return dspec * as_complex(mixture(routing, bases)) + spec * as_complex(dmixture)


def mixture(routing: Tensor, bases: Tensor) -> Tensor:
    """The mixed filters, as one real product: `(B, N, M)` and `(N, H, F, 2)` to `(B, M, H, F, 2)`."""
    mixed = routing.transpose(1, 2) @ bases.reshape(len(bases), -1)
    return mixed.reshape(*mixed.shape[:2], *bases.shape[1:])


def as_complex(weight: Tensor) -> Tensor:
    """A complex view of a filter whose last axis is (real, imaginary), or of a copy if its strides do not allow a view."""
    *steps, last = weight.stride()
    pairs = last == 1 and all(step % 2 == 0 for step in steps)
    # not `contiguous()`: it keeps the odd stride of an axis of size 1, which torch 2.4 refuses
    return torch.view_as_complex(weight if pairs else weight.clone(memory_format=torch.contiguous_format))


def complex_product(a_re: Tensor, a_im: Tensor, b_re: Tensor, b_im: Tensor) -> tuple[Tensor, Tensor]:
    """(a + ib)(c + id) = (ac - bd) + i(ad + bc), on real and imaginary parts."""
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


def map_by_matmul(x: Tensor, function: SpectralMap, dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """`map_spectrum` by real matrix products, in the dtype of `x`."""
    re, im = (part.movedim((-2, -1), dims) for part in rfft2_by_matmul(x.movedim(dims, (-2, -1))))
    re, im = (part.movedim(dims, (-2, -1)) for part in function(re, im))
    return irfft2_by_matmul(re, im, x.shape[dims[1]]).movedim((-2, -1), dims)


def rfft2_by_matmul(x: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the orthonormal half spectrum: `(..., H, W)` to two of `(..., H, F)`."""
    height, width = x.shape[-2:]
    cos_w, sin_w = half_basis(width, x.dtype, x.device)
    cos_h, sin_h = basis(height, x.dtype, x.device)
    re, im = x @ cos_w, -(x @ sin_w)
    return cos_h @ re + sin_h @ im, cos_h @ im - sin_h @ re


def irfft2_by_matmul(re: Tensor, im: Tensor, width: int) -> Tensor:
    """Inverse: two of `(..., H, F)` to `(..., H, W)`; imaginary parts of self-conjugate columns are ignored."""
    cos_h, sin_h = basis(re.shape[-2], re.dtype, re.device)
    cos_w, sin_w = inverse_half_basis(width, re.dtype, re.device)
    back_re, back_im = cos_h @ re - sin_h @ im, cos_h @ im + sin_h @ re
    return back_re @ cos_w - back_im @ sin_w


def basis(side: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the transform of a complex axis, `(n, n)`; made within the graph if the side is open."""
    return open_size.cos_sin(side, dtype, device) if open_size.is_open(side) else cos_sin(side, side, side, dtype, device)


def half_basis(width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Those of the transform of a real axis to its half spectrum, `(W, F)`."""
    if open_size.is_open(width):
        return open_size.half_cos_sin(width, dtype, device)
    return cos_sin(width, half_width(width), width, dtype, device)


def inverse_half_basis(width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Those of its inverse, `(F, W)`, times the multiplicity of the columns."""
    if open_size.is_open(width):
        return open_size.inverse_half_cos_sin(width, dtype, device)
    cos, sin = cos_sin(half_width(width), width, width, dtype, device)
    times = multiplicity(width, dtype, device).unsqueeze(-1)
    return times * cos, times * sin


def cos_sin(rows: int, cols: int, period: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices cos(2 pi j k / period) / sqrt(period) and sin likewise, j < rows, k < cols, computed in float64."""
    turns = torch.outer(torch.arange(rows, device=device), torch.arange(cols, device=device)) % period  # exact for long sides
    angle = turns.to(torch.float64) * (2 * pi / period)
    return (angle.cos() / period**0.5).to(dtype), (angle.sin() / period**0.5).to(dtype)


def multiplicity(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """How often each of the F columns occurs in the full spectrum: 1 for zero and Nyquist, else 2."""
    column = torch.arange(half_width(width), device=device)
    return torch.where((column == 0) | (2 * column == width), 1, 2).to(dtype)


def is_traced() -> bool:
    """Whether a compiler or `torch.jit.trace` is tracing: then plain functions run, without autograd functions of this module."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def resolve_backend(x: Tensor, backend: str) -> tuple[str, torch.dtype]:
    """The backend to use ('auto' is 'matmul' during an export to ONNX, else 'fft') and the dtype to compute in."""
    if backend not in SPECTRAL_BACKENDS:
        raise ValueError(f"spectral backend '{backend}' is unknown; choose one of {', '.join(SPECTRAL_BACKENDS)}")
    if not x.is_floating_point():
        raise TypeError(f'the map to filter must be a floating-point tensor, got {x.dtype}')
    if backend == 'auto':
        backend = 'matmul' if torch.onnx.is_in_onnx_export() else 'fft'
    return backend, torch.float64 if x.dtype == torch.float64 else torch.float32


def check_grid(x: Tensor, weight: Tensor, dims: tuple[int, int]) -> None:
    """Raise a ValueError if the grid of the filter is not that of the map's spectrum."""
    if weight.shape[-1:] != (2,):
        raise ValueError(f'the last axis of a filter must be (real, imaginary), of size 2, got shape {tuple(weight.shape)}')
    height, width = x.shape[dims[0]], x.shape[dims[1]]
    at = tuple(d - x.ndim - 1 for d in dims)  # counted from the end, past the (real, imaginary) axis
    got = tuple(weight.shape[d] for d in at)
    if got != (height, half_width(width)):
        raise ValueError(
            f'A {height}x{width} map needs a filter of half-spectrum size {(height, half_width(width))}, got {got}. '
            f'Resize the filter with mmfreq.ops.resize_filter.'
        )

"""The spectral operator: to the half spectrum of a real map, multiply or map it, back to the same grid.

One operator serves every family (GFNet section 3.2, HorNet section 3.2). It computes in float32 (float64 for float64 input) with
autocast off, uses `norm='ortho'` both ways, always gives the size of the inverse, and returns the input's dtype.

The inverse has one meaning on every device, also for spectra that are not Hermitian, as a product with a learned filter is in its
zero column and, for even W, in its Nyquist column: complex inverse over H, the imaginary part of those two columns dropped, real
inverse over W. `torch.fft.irfft2` computes this on a CPU. Other devices may read those columns in another way; there the two
columns are replaced by their Hermitian part first.

The backend 'matmul' computes the same by real matrix products: no complex numbers, no FFT. For a map X (H x W): a real transform
over W by a (W, 2F) basis, a complex transform over H by cosines and sines, the filter on (re, im), and the way back. There the zero
and Nyquist columns enter once and the others twice, and the sines of the former are zero, so their imaginary part drops out.

Legend: H W grid, F = W // 2 + 1 half width. `dims` are the positions of H and W in the tensor.
"""

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor
from torch.autograd.function import Function

from mmfreq.ops.resize import without_autocast

SPECTRAL_BACKENDS = ('auto', 'fft', 'matmul')
SpectralMap = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # real and imaginary part of a spectrum to those of another


def half_width(width: int) -> int:
    """Columns F of the half spectrum of a grid `width` columns wide."""
    return width // 2 + 1


def apply_filter(x: Tensor, weight: Tensor, dims: tuple[int, int] = (-2, -1), backend: str = 'auto') -> Tensor:
    """Circular convolution of `x` with the transfer function `weight`.

    Args:
        x: real map.
        weight: real view of the filter's half spectrum; the last axis holds (real, imaginary) and the others broadcast against
            the spectrum of `x`. For an NCHW map `(C, H, F, 2)`, for a channels-last map with `dims=(1, 2)` `(H, F, C, 2)`; with
            a leading batch axis, one filter for each sample.
        dims: positions of H and W in `x`.
        backend: 'fft', 'matmul' (real matrix products), or 'auto': 'fft', but 'matmul' during an export to ONNX.

    Shape:
        `x` of any shape and memory layout; the result has its shape and dtype.

    Raises:
        ValueError: unknown backend, or a filter for another grid (resize it first with `resize_filter`).
        TypeError: an integer or complex map.
    """
    backend, dtype = plan(x, backend)
    dims = (dims[0] % x.ndim, dims[1] % x.ndim)
    check_grid(x, weight, dims)
    with without_autocast(x):
        weight = weight.to(dtype)
        if backend == 'matmul':
            weight_re, weight_im = weight.unbind(-1)
            return map_by_matmul(x.to(dtype), lambda re, im: complex_product(re, im, weight_re, weight_im), dims).to(x.dtype)
        return irfft2(rfft2(x.to(dtype), dims) * as_complex(weight), (x.shape[dims[0]], x.shape[dims[1]]), dims).to(x.dtype)


def apply_mixture(x: Tensor, routing: Tensor, filters: Tensor, backend: str = 'auto') -> Tensor:
    """`apply_filter` with a filter of its own for each sample and channel, mixed from a few.

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
    backend, dtype = plan(x, backend)
    check_grid(x, filters.permute(2, 0, 1, 3), (2, 3))
    with without_autocast(x):
        routing, bases = routing.to(dtype), filters.to(dtype).permute(2, 0, 1, 3)  # (N, H, F, 2)
        if backend == 'matmul':
            return apply_filter(x.to(dtype), mixture(routing, bases), (2, 3), backend).to(x.dtype)
        spec = rfft2(x.to(dtype))
        # the mixtures, larger than the map, are not saved for backward
        product = mixture_product if is_traced() else _MixtureProduct.apply
        spec = product(spec, routing, bases)
        return irfft2(spec, (x.shape[2], x.shape[3])).to(x.dtype)


def map_spectrum(x: Tensor, function: SpectralMap, dims: tuple[int, int] = (-2, -1), backend: str = 'auto') -> Tensor:
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
    backend, dtype = plan(x, backend)
    dims = (dims[0] % x.ndim, dims[1] % x.ndim)
    with without_autocast(x):
        if backend == 'matmul':
            return map_by_matmul(x.to(dtype), function, dims).to(x.dtype)
        spec = rfft2(x.to(dtype), dims)
        mapped = torch.complex(*function(spec.real, spec.imag))
        return irfft2(mapped, (x.shape[dims[0]], x.shape[dims[1]]), dims).to(x.dtype)


def rfft2(x: Tensor, dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """Orthonormal half spectrum of a real float32 or float64 tensor; its backward pass is one real inverse transform.

    Shape:
        `(..., H, W)` at `dims` to complex `(..., H, F)`, DC at index 0, not shifted.
    """
    size = (x.shape[dims[0]], x.shape[dims[1]])
    if is_traced():
        return torch.fft.rfft2(x, s=size, dim=dims, norm='ortho')
    return _RealTransform.apply(x, size, dims)


def irfft2(spec: Tensor, size: tuple[int, int], dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """Back to the `(H, W)` grid, with the module's one meaning for spectra that are not Hermitian.

    Shape:
        Complex `(..., H, F)` at `dims` to real `(..., H, W)`.
    """
    if spec.device.type != 'cpu':
        spec = hermitian_columns(spec, size[1], dims)
    return torch.fft.irfft2(spec, s=size, dim=dims, norm='ortho')


def hermitian_columns(spec: Tensor, width: int, dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """`spec` with its self-conjugate columns c(k) replaced by (c(k) + conj c(-k)) / 2, k the row's frequency."""
    step = width // 2 if width > 1 and width % 2 == 0 else spec.shape[dims[1]]  # the zero column, and Nyquist for even W
    at = [slice(None)] * spec.ndim
    at[dims[1]] = slice(None, None, step)
    found = spec[tuple(at)]
    out = spec.clone()
    out[tuple(at)] = (found + found.flip(dims[0]).roll(1, dims[0]).conj()) / 2
    return out


class _RealTransform(Function):
    """`torch.fft.rfft2`, whose own backward pass transforms the full complex grid.

    With orthonormal transforms the adjoint is the inverse of the gradient over the multiplicity of its columns: the full spectrum
    has each column twice, the zero and Nyquist columns once.
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
    """A spectrum times the mixtures of filters."""
    return spec * as_complex(mixture(routing, bases))


class _MixtureProduct(Function):
    """`mixture_product`, whose own backward pass computes the mixture, as large as the spectrum, again."""

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
        # reshape, not flatten: batched gradients know no other
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
    """Filters of all channels as one real product: `(B, N, M)`, `(N, H, F, 2)` to `(B, M, H, F, 2)`."""
    mixed = routing.transpose(1, 2) @ bases.reshape(len(bases), -1)
    return mixed.reshape(*mixed.shape[:2], *bases.shape[1:])


def as_complex(weight: Tensor) -> Tensor:
    """A complex view of a filter whose last axis is (real, imaginary); of a copy where its strides allow none."""
    *steps, last = weight.stride()
    pairs = last == 1 and all(step % 2 == 0 for step in steps)
    # not `contiguous()`: it keeps the odd stride of an axis of one entry, which torch 2.4 refuses
    return torch.view_as_complex(weight if pairs else weight.clone(memory_format=torch.contiguous_format))


def complex_product(a_re: Tensor, a_im: Tensor, b_re: Tensor, b_im: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of a product."""
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


def map_by_matmul(x: Tensor, function: SpectralMap, dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """`map_spectrum` by real matrix products, in the dtype of `x`."""
    dims = (dims[0] % x.ndim, dims[1] % x.ndim)
    in_place = (part.movedim((-2, -1), dims) for part in spectrum(x.movedim(dims, (-2, -1))))
    re, im = (part.movedim(dims, (-2, -1)) for part in function(*in_place))
    return grid(re, im, x.shape[dims[1]]).movedim((-2, -1), dims)


def spectrum(x: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the orthonormal half spectrum: `(..., H, W)` to two of `(..., H, F)`."""
    height, width = x.shape[-2:]
    cos_w, sin_w = cos_sin(width, half_width(width), width, x.dtype, x.device)
    cos_h, sin_h = cos_sin(height, height, height, x.dtype, x.device)
    re, im = x @ cos_w, -(x @ sin_w)
    return cos_h @ re + sin_h @ im, cos_h @ im - sin_h @ re


def grid(re: Tensor, im: Tensor, width: int) -> Tensor:
    """Back to the grid: two of `(..., H, F)` to `(..., H, W)`; imaginary parts of self-conjugate columns are ignored."""
    height, half = re.shape[-2:]
    cos_h, sin_h = cos_sin(height, height, height, re.dtype, re.device)
    cos_w, sin_w = cos_sin(half, width, width, re.dtype, re.device)
    times = multiplicity(width, re.dtype, re.device).unsqueeze(-1)
    back_re, back_im = cos_h @ re - sin_h @ im, cos_h @ im + sin_h @ re
    return back_re @ (times * cos_w) - back_im @ (times * sin_w)


def cos_sin(rows: int, cols: int, period: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices cos and sin of 2 pi j k / period over sqrt(period), j < rows, k < cols, computed in float64."""
    turns = torch.outer(torch.arange(rows, device=device), torch.arange(cols, device=device)) % period  # exact for long sides
    angle = turns.to(torch.float64) * (2 * pi / period)
    return tuple((f(angle) / period**0.5).to(dtype) for f in (torch.cos, torch.sin))


def multiplicity(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """How often each of the F columns stands in the full spectrum: 1 for zero and Nyquist, else 2."""
    column = torch.arange(half_width(width), device=device)
    return torch.where((column == 0) | (2 * column == width), 1, 2).to(dtype)


def is_traced() -> bool:
    """Whether a compiler or `torch.jit.trace` watches: they decide by themselves what is saved for backward."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


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

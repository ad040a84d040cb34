"""Filtering in the frequency domain as autograd functions with the backward pass written down.

The operator y = irfft2(W rfft2(x)) with the inverse of `ops/transforms.py` is the circular convolution with the kernel whose half
spectrum is W, but in the zero and (even width) Nyquist columns (W(k) + conj W(-k)) / 2. Its adjoint is therefore the same operator
with conj W, and with orthonormal transforms the gradient of W is m G conj(X): G, X the half spectra of the gradient and of the
input, m how often a column stands in the full spectrum. Plain autograd takes complex transforms of the full grid for the same, and
keeps the filter.

Legend: B batch, M channels, H W grid, F = W // 2 + 1, N filters.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from mmfreq.ops.dft import multiplicity
from mmfreq.ops.fusing import pieces, wants_gradient
from mmfreq.ops.transforms import irfft2, rfft2


def filter_by_fft(x: Tensor, weight: Tensor, dims: tuple[int, int]) -> Tensor:
    """Inverse transform of `weight` times the spectrum of `x`, both float32 or float64; arguments as in `apply_filter`."""
    return _Filter.apply(x, weight, dims)


def filter_by_mixture(x: Tensor, routing: Tensor, filters: Tensor, act: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Each channel of `act(x)` through its own mixture of a few filters (DFFormer); the mixtures are never kept.

    Args:
        x: real map of any float dtype; the result has its dtype.
        routing: real coefficients.
        filters: real view of the stored filters, resized to the grid of `x`, in the dtype of `routing`, which is that of the
            computation (float32 or float64).
        act: activation before the filter; without gradients applied piece by piece.

    Shape:
        `x` `(B, M, H, W)`, `routing` `(B, N, M)`, `filters` `(H, F, N, 2)`; `(B, M, H, W)`.
    """
    if wants_gradient(x, routing, filters):
        return _Mixture.apply((x if act is None else act(x)).to(routing.dtype), routing, filters).to(x.dtype)
    size = tuple(x.shape[2:])
    bases = as_rows(filters)
    out = torch.empty_like(x)
    for at in channel_pieces(x, bases):
        piece = x[:, at] if act is None else act(x[:, at])
        spec = rfft2(piece.to(routing.dtype))
        spec *= mixture(routing[..., at], bases, spec)
        out[:, at] = irfft2(spec, size)
    return out


def column_weights(spec: Tensor, width: int, dim: int) -> Tensor:
    """`multiplicity` of the columns of `spec`, broadcastable along `dim`."""
    shape = [1] * spec.ndim
    shape[dim] = -1
    return multiplicity(width, spec.real.dtype, spec.device).view(shape)


class _Filter(Function):
    @staticmethod
    def forward(ctx, x, weight, dims):
        spec = rfft2(x, dims)
        ctx.dims, ctx.size = dims, (x.shape[dims[0]], x.shape[dims[1]])
        kept = spec if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(weight, kept)
        product = torch.mul(spec, as_complex(weight), out=None if kept is not None else spec)
        return irfft2(product, ctx.size, dims)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        weight, spec = ctx.saved_tensors
        wants_x, wants_weight, _ = ctx.needs_input_grad
        g = rfft2(grad, ctx.dims)
        dweight = None
        if wants_weight:
            both = (g * spec.conj()).mul_(column_weights(g, ctx.size[1], ctx.dims[1]))
            dweight = torch.view_as_real(both).sum_to_size(weight.shape)
        dx = irfft2(g.mul_(as_complex(weight).conj()), ctx.size, ctx.dims) if wants_x else None
        return dx, dweight, None


class _Mixture(Function):
    @staticmethod
    def forward(ctx, x, routing, filters):
        size = tuple(x.shape[2:])
        bases = as_rows(filters)
        out = torch.empty_like(x)
        specs = []
        for at in channel_pieces(x, bases):
            specs.append(rfft2(x[:, at]))
            out[:, at] = irfft2(specs[-1] * mixture(routing[..., at], bases, specs[-1]), size)
        ctx.save_for_backward(routing, filters, *specs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        routing, filters, *specs = ctx.saved_tensors
        size = tuple(grad.shape[2:])
        bases = as_rows(filters)
        dx, drouting, dbases = torch.empty_like(grad), torch.empty_like(routing), torch.zeros_like(bases)
        start = 0
        for spec in specs:
            at = slice(start, start := start + spec.shape[1])
            g = rfft2(grad[:, at])
            dmixed = torch.view_as_real((g * spec.conj()).mul_(column_weights(g, size[1], 3))).flatten(2)  # (B, M, H F 2)
            drouting[..., at] = (dmixed @ bases.t()).transpose(1, 2)
            dbases += torch.einsum('bnm,bmk->nk', routing[..., at], dmixed)
            dx[:, at] = irfft2(g.mul_(mixture(routing[..., at], bases, spec).conj()), size)
        dfilters = dbases.unflatten(1, (*filters.shape[:2], 2)).permute(1, 2, 0, 3)
        return dx, drouting, dfilters


def as_rows(filters: Tensor) -> Tensor:
    """`(H, F, N, 2)` to `(N, H F 2)`."""
    return filters.permute(2, 0, 1, 3).flatten(1)


def channel_pieces(x: Tensor, bases: Tensor) -> Iterator[slice]:
    """Channels of an NCHW map whose spectra are computed at a time."""
    return pieces(x.shape[1], len(x) * bases.shape[1] * bases.element_size(), x.device)


def mixture(routing: Tensor, bases: Tensor, spec: Tensor) -> Tensor:
    """Complex filters of some channels, as one real product: `(B, N, M)`, `(N, H F 2)` to the shape of `spec`, `(B, M, H, F)`."""
    return torch.view_as_complex((routing.transpose(1, 2) @ bases).view(*spec.shape, 2))


def as_complex(weight: Tensor) -> Tensor:
    """A complex view of a filter whose last axis is (real, imaginary); of a copy where its strides allow none."""
    *steps, last = weight.stride()
    pairs = last == 1 and all(step % 2 == 0 for step in steps)
    # not `contiguous()`: it keeps the odd stride of an axis of one entry, which torch 2.4 refuses
    return torch.view_as_complex(weight if pairs else weight.clone(memory_format=torch.contiguous_format))

"""Activations as functions that keep their input alone.

In float16 squares end at 65504. Here they saturate there, and the gradient goes on as if they did not: an infinite one would make
every value NaN that is computed from it, in a forward pass that no loss scaler can mend.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import relu

from mmfreq.ops.fusing import may_fuse, pieces

LARGEST_ROOT = 255.875  # of the float16 numbers with a finite square the largest


def rectified(x: Tensor) -> Tensor:
    """`relu(x)`, in float16 no more than `LARGEST_ROOT`; NaN stays NaN."""
    return x.clamp(0, LARGEST_ROOT) if x.dtype == torch.float16 else relu(x)


def rectified_(x: Tensor) -> Tensor:
    """The same in the memory of `x`."""
    return x.clamp_(0, LARGEST_ROOT) if x.dtype == torch.float16 else x.relu_()


def star_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """`scale * relu(x)^2 + bias` with scalar scale and bias (MetaFormer baselines, arXiv 2210.13452)."""
    return _StarReLU.apply(x, scale, bias) if may_fuse() else scale * rectified(x).square() + bias


class _StarReLU(Function):
    @staticmethod
    def forward(ctx, x, scale, bias):
        ctx.save_for_backward(x, scale)
        dtype = torch.promote_types(x.dtype, scale.dtype)
        if x.device.type != 'cpu' or not x.is_contiguous():
            return rectified(x).to(dtype).square_().mul_(scale).add_(bias)
        out = torch.empty_like(x, dtype=dtype)
        factor, offset = scale.item(), bias.to(dtype)
        for at in pieces(x.numel(), dtype.itemsize, x.device):
            positive = rectified(x.view(-1)[at]).to(dtype)
            torch.addcmul(offset, positive, positive, value=factor, out=out.view(-1)[at])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, scale = ctx.saved_tensors
        positive = rectified(x).to(grad.dtype)
        wants_x, wants_scale, wants_bias = ctx.needs_input_grad
        dx = (grad * positive).mul_(2 * scale).to(x.dtype) if wants_x else None
        dscale = torch.dot(grad.flatten(), positive.square().flatten()).view_as(scale) if wants_scale else None
        return dx, dscale, grad.sum().view_as(scale) if wants_bias else None


def squared_relu(x: Tensor) -> Tensor:
    """`relu(x)^2`."""
    return _SquaredReLU.apply(x) if may_fuse() else rectified(x).square()


class _SquaredReLU(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return rectified(x).square_()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return rectified(x).mul_(grad).mul_(2)


def overwriting(act: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The activation in the memory of its argument, for a hidden layer that nobody else needs."""
    return IN_PLACE.get(act, act)


IN_PLACE: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    torch.relu: torch.relu_,
    squared_relu: lambda x: rectified_(x).square_(),
}

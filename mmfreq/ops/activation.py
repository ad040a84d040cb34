"""Activations as functions that keep their input alone."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import relu

from mmfreq.ops.fusing import may_fuse, pieces


def star_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """`scale * relu(x)^2 + bias` with scalar scale and bias (MetaFormer baselines, arXiv 2210.13452)."""
    return _StarReLU.apply(x, scale, bias) if may_fuse() else scale * relu(x).square() + bias


class _StarReLU(Function):
    @staticmethod
    def forward(ctx, x, scale, bias):
        ctx.save_for_backward(x, scale)
        dtype = torch.promote_types(x.dtype, scale.dtype)
        if x.device.type != 'cpu' or not x.is_contiguous():
            return relu(x).to(dtype).square_().mul_(scale).add_(bias)
        out = torch.empty_like(x, dtype=dtype)
        factor, offset = scale.item(), bias.to(dtype)
        for at in pieces(x.numel(), dtype.itemsize, x.device):
            positive = relu(x.view(-1)[at]).to(dtype)
            torch.addcmul(offset, positive, positive, value=factor, out=out.view(-1)[at])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, scale = ctx.saved_tensors
        positive = relu(x).to(grad.dtype)
        wants_x, wants_scale, wants_bias = ctx.needs_input_grad
        dx = (grad * positive).mul_(2 * scale).to(x.dtype) if wants_x else None
        dscale = torch.dot(grad.flatten(), positive.square().flatten()).view_as(scale) if wants_scale else None
        return dx, dscale, grad.sum().view_as(scale) if wants_bias else None


def squared_relu(x: Tensor) -> Tensor:
    """`relu(x)^2`."""
    return _SquaredReLU.apply(x) if may_fuse() else relu(x).square()


class _SquaredReLU(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return relu(x).square_()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return relu(x).mul_(grad).mul_(2)


def overwriting(act: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The activation in the memory of its argument, for a hidden layer that nobody else needs."""
    return IN_PLACE.get(act, act)


IN_PLACE: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    torch.relu: torch.relu_,
    squared_relu: lambda x: x.relu_().square_(),
}

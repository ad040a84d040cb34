"""Batch norm, SiLU and convolution as one autograd function that keeps the input of the norm alone; and folding for inference.

Plain autograd keeps the input of the norm, that of the activation and that of the convolution: three maps for one.

Legend: B batch, C channels, K hidden channels, H W grid.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import conv2d, silu

from mmfreq.ops.fusing import no_autocast, pieces, work_dtype


@dataclass(frozen=True)
class ConvArguments:
    """The numbers of a `Conv2d`; pairs are (vertical, horizontal)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def backward(self, grad: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of input and weight."""
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, self.stride, self.padding, self.dilation, False, (0, 0), self.groups, (*mask, False)
        )
        return dx, dweight


@dataclass(frozen=True)
class BatchStatistics:
    """What a batch norm keeps beside its parameters; `momentum` of the running averages, `training` with the batch's own."""

    mean: Tensor
    var: Tensor
    training: bool
    momentum: float
    eps: float


def norm_silu_conv(
    x: Tensor, norm: tuple[Tensor, Tensor], statistics: BatchStatistics, conv: tuple[Tensor, ConvArguments]
) -> Tensor:
    """Convolution of `silu(batch_norm(x))`; the running averages are updated as `batch_norm` updates them.

    Args:
        x: map.
        norm: weight and bias of the batch norm.
        statistics: the rest of it.
        conv: weight and numbers of a convolution without bias.

    Shape:
        `(B, C, H, W)` to what `Conv2d` says, in the dtype that autocast gives a convolution.
    """
    weight, arguments = conv
    with no_autocast(x):
        return _NormSiluConv.apply(x, *norm, statistics, weight.to(work_dtype(x)), arguments)


class _NormSiluConv(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, statistics, conv_weight, conv):
        s = statistics
        y, mean, inverse_std = torch.native_batch_norm(x, weight, bias, s.mean, s.var, s.training, s.momentum, s.eps)
        if not s.training:  # not returned then
            mean, inverse_std = s.mean.clone(), (s.var + s.eps).rsqrt()
        ctx.save_for_backward(x, weight, bias, mean, inverse_std, conv_weight)
        ctx.statistics, ctx.conv = statistics, conv
        return conv.conv(silu(y, inplace=True).to(conv_weight.dtype), conv_weight, None)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, bias, mean, inverse_std, conv_weight = ctx.saved_tensors
        s = ctx.statistics
        scale = inverse_std * weight
        shift, scale = ((t.view(1, -1, 1, 1)).to(x.dtype) for t in (bias - mean * scale, scale))
        buffer = torch.addcmul(shift, x, scale)  # one for all: large fresh memory costs more than to compute this twice
        mask = (any(ctx.needs_input_grad[:3]), ctx.needs_input_grad[4])
        dy, dconv = ctx.conv.backward(grad, silu(buffer, inplace=True).to(conv_weight.dtype), conv_weight, mask)
        if dy is None:
            return None, None, None, None, dconv, None
        dy = dy.to(x.dtype)
        torch.addcmul(shift, x, scale, out=buffer)
        torch.ops.aten.silu_backward(dy, buffer, grad_input=dy)
        del buffer
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, s.mean, s.var, mean, inverse_std, s.training, s.eps, ctx.needs_input_grad[:3]
        )
        return dx, dweight, dbias, None, dconv, None


def fold_batch_norm(conv_weight: Tensor, norm: tuple[Tensor, Tensor], statistics: BatchStatistics) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does what a convolution without bias and a batch norm in eval mode do."""
    scale = norm[0] * (statistics.var + statistics.eps).rsqrt()
    return conv_weight * scale.view(-1, 1, 1, 1), norm[1] - statistics.mean * scale


def inverted_residual(
    x: Tensor,
    expand: tuple[Tensor, Tensor],
    depthwise: tuple[Tensor, Tensor],
    reduce: tuple[Tensor, Tensor],
    stride: int,
    dilation: int,
    act: Callable[[Tensor], Tensor],
    adds: bool,
) -> Tensor:
    """1x1, activation, depth-wise 3x3, activation, 1x1, in strips of rows; for inference.

    A strip computes the one or two rows of the hidden map again that the 3x3 convolution shares with its neighbours.

    Args:
        x: channels-last map.
        expand, depthwise, reduce: weight and bias of each convolution, `(K, C, 1, 1)`, `(K, 1, 3, 3)`, `(O, K, 1, 1)`.
        stride, dilation: of the depth-wise one, which is padded by `dilation`.
        act: activation; may work in place.
        adds: the input is added to the result.

    Shape:
        `(B, H, W, C)` to `(B, ceil(H / stride), ceil(W / stride), O)`, contiguous.
    """
    height, width = x.shape[1:3]
    weight, bias = depthwise
    rows, columns = -(-height // stride), -(-width // stride)
    lead = -(-dilation // stride)  # rows of the result that see the padding of a strip where the map goes on

    def strip(batch: slice, at: slice) -> Tensor:
        first = max(at.start - lead, 0)
        last = min((at.stop - 1) * stride + dilation + 1, height)
        h = act(conv2d(x[batch, first * stride : last].permute(0, 3, 1, 2), *expand))
        h = act(conv2d(h, weight, bias, stride, dilation, dilation, len(weight)))
        y = conv2d(h[:, :, at.start - first : at.stop - first], *reduce).permute(0, 2, 3, 1)
        return y.add_(x[batch, at]) if adds else y

    hidden_row = stride * width * len(weight) * x.element_size()
    strips = pieces(rows, hidden_row, x.device)
    batches = [slice(b, b + 1) for b in range(len(x))] if x.device.type == 'cpu' else [slice(None)]
    if len(strips) == len(batches) == 1:
        return strip(batches[0], strips[0])
    out = x.new_empty(len(x), rows, columns, len(reduce[0]))
    for batch in batches:
        for at in strips:
            out[batch, at] = strip(batch, at)
    return out

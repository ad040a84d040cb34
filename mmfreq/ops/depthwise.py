"""Depth-wise convolutions with large kernels: the gradient of the weight as products of matrices, on a CPU.

Legend: B batch, C channels, H W grid, k side of the kernel.
"""

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import conv2d, pad

from mmfreq.ops.fusing import may_fuse, pieces, wants_gradient

SMALLEST_KERNEL = 5  # on a CPU with AVX-512 oneDNN is 5 to 8 times as fast with 3x3, and 0.9 to 2 times as slow with 5x5
TILE = 32  # columns of the map in one product of matrices


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depth-wise convolution that keeps the grid.

    Shape:
        `(B, C, H, W)`, `(C, 1, k, k)` with odd k, and `(C)` or None; `(B, C, H, W)`.
    """
    side = weight.shape[-1]
    matrices = x.device.type == 'cpu' and x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    if matrices and side >= SMALLEST_KERNEL and wants_gradient(weight) and not torch.is_autocast_enabled('cpu') and may_fuse():
        return _DepthwiseConv.apply(x, weight, bias)
    return conv2d(x, weight, bias, padding=side // 2, groups=len(weight))


class _DepthwiseConv(Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        ones = (1, 1)
        reach = (weight.shape[-1] // 2,) * 2
        only_x = (wants_x, False, False)  # oneDNN would compute the gradient of the weight along with that of the bias
        dx, _, _ = torch.ops.aten.convolution_backward(grad, x, weight, None, ones, reach, ones, False, (0, 0), len(weight), only_x)
        dweight = weight_gradient(x, grad, weight.shape[-1]) if wants_weight else None
        return dx, dweight, grad.sum((0, 2, 3)) if wants_bias else None


def weight_gradient(x: Tensor, grad: Tensor, side: int) -> Tensor:
    """Gradient of the weight of a depth-wise convolution that keeps the grid: `sum_hw grad[h, w] x[h + i, w + j]` for lags (i, j).

    For one i, and X, G the maps of a channel with X shifted by i rows, the sums for all j are those of the diagonals of X^T G.
    Products of small matrices are as fast as oneDNN's own function for 7x7 on 256x256 maps and 6 times as fast on 16x16, and need
    no scratch memory to speak of (that of oneDNN for 992 channels of 16x16 is 48 MiB).

    Args:
        x, grad: input and gradient of the output.
        side: k, odd.

    Shape:
        Two of `(B, C, H, W)` to `(C, 1, k, k)`.
    """
    batch, channels, height, width = x.shape
    reach = side // 2
    found = x.new_zeros(side, channels, side)
    for at in pieces(channels, batch * height * width * x.element_size(), x.device):
        columns = pad(x[:, at].transpose(2, 3), (reach,) * 4).flatten(0, 1).contiguous()  # (B C, W + 2 reach, H + 2 reach)
        rows = grad[:, at].flatten(0, 1).contiguous()
        for start in range(0, width, TILE):
            tile = rows[:, :, start : start + TILE]
            for i in range(side):
                product = torch.bmm(columns[:, start : start + tile.shape[2] + 2 * reach, i : i + height], tile)
                found[i, at] += diagonals(product, side).sum(2).unflatten(0, (batch, -1)).sum(0)
    return found.transpose(0, 1).unsqueeze(1).contiguous()


def diagonals(matrices: Tensor, count: int) -> Tensor:
    """The diagonals that start at the first elements of the first `count` rows; a view.

    Shape:
        `(N, T + count - 1, T)` to `(N, count, T)`.
    """
    each, row, column = matrices.stride()
    return matrices.as_strided((len(matrices), count, matrices.shape[2]), (each, row, row + column))

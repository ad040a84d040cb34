"""Memory layouts, norms, activations and the MLP that the families share."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import group_norm, layer_norm, relu

from mmfreq.ops.legacy_onnx import is_legacy_export

MAX_FLOAT16_ROOT = 255.875  # the largest float16 number whose square is finite


def to_bhwc(x: Tensor) -> Tensor:
    """`(B, C, H, W)` to `(B, H, W, C)`; a view."""
    return x.permute(0, 2, 3, 1)


def to_bchw(x: Tensor) -> Tensor:
    """`(B, H, W, C)` to `(B, C, H, W)`; a view."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """An NCHW map in channels-last memory; works within `torch.vmap`, which does not support memory formats."""
    return to_bchw(to_bhwc(x).contiguous())


class LayerNorm2d(nn.LayerNorm):
    """`weight * (x - mean) / sqrt(var + eps) + bias` over dim 1, biased variance (HorNet's 'channels_first' layer norm).

    Shape:
        `(B, C, H, W)` to the same, in channels-last memory.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return to_bchw(super().forward(to_bhwc(x)))


class MapNorm(nn.GroupNorm):
    """Norm over channels and grid together, with a weight and a bias per channel: a group norm of one group.

    Shape:
        `(B, C, H, W)` to the same, in the same memory layout.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__(1, channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return map_norm(x, self.weight, self.bias, self.eps)


def map_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm of one group, through `layer_norm` for channels-last maps on a CPU.

    torch's group norm computes their variance as a difference of squares, which is inaccurate if the mean is much larger than the
    standard deviation.
    """
    if torch.onnx.is_in_onnx_export() and not is_legacy_export():  # which has no layer norm over axes of any size
        normed = layer_norm(x, x.shape[1:], eps=eps)
        return torch.addcmul(bias.view(-1, 1, 1), normed, weight.view(-1, 1, 1)).to(x.dtype)
    if x.device.type != 'cpu' or x.is_contiguous() or is_legacy_export():
        return group_norm(x, 1, weight, bias, eps)
    x_bhwc = to_bhwc(x)
    normed = layer_norm(x_bhwc, x_bhwc.shape[1:], eps=eps)
    return to_bchw(torch.addcmul(bias, normed, weight)).to(x.dtype)


class StarReLU(nn.Module):
    """`scale * relu(x)^2 + bias` with one learnable scale and bias, initially 1 and 0 (MetaFormer baselines, arXiv 2210.13452)."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * squared_relu(x) + self.bias


class SquaredReLU(nn.Module):
    """`relu(x)^2`."""

    def forward(self, x: Tensor) -> Tensor:
        return squared_relu(x)


def squared_relu(x: Tensor) -> Tensor:
    """`relu(x)^2`; in float16 it saturates instead of becoming infinite, which would cause NaN later."""
    return (x.clamp(0, MAX_FLOAT16_ROOT) if x.dtype == torch.float16 else relu(x)).square()


class Mlp(nn.Module):
    """`fc2(act(fc1(x)))` on the last axis.

    Args:
        channels: size of the last axis.
        hidden: width between the linear layers.
        out_channels: width of the output; default `channels`.
        act: class of the activation.
        bias: whether both linear layers have a bias.

    Shape:
        `(..., channels)` to `(..., out_channels)`.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        out_channels: int | None = None,
        act: Callable[[], nn.Module] = nn.GELU,
        bias: bool = True,
    ):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, bias=bias)
        self.act = act()
        self.fc2 = nn.Linear(hidden, channels if out_channels is None else out_channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


# torch.fx cannot trace conditions on a tensor's dtype, device or layout: these functions stay one node of a graph
fx.wrap('map_norm')
fx.wrap('squared_relu')

"""Layouts, norms, activations and the MLP that the families share."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import group_norm, layer_norm, relu

LARGEST_ROOT = 255.875  # the largest float16 number with a finite square


def to_bhwc(x: Tensor) -> Tensor:
    """`(B, C, H, W)` to `(B, H, W, C)`; a view."""
    return x.permute(0, 2, 3, 1)


def to_bchw(x: Tensor) -> Tensor:
    """`(B, H, W, C)` to `(B, C, H, W)`; a view."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """An NCHW map in channels-last memory; `torch.vmap` knows no memory formats."""
    return to_bchw(to_bhwc(x).contiguous())


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over dim 1: biased variance, `eps` inside the root, a weight and a bias per channel (HorNet, 'channels_first').

    Shape:
        `(B, C, H, W)` to the same; the result lies in memory as channels-last.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return to_bchw(super().forward(to_bhwc(x)))


class MapNorm(nn.GroupNorm):
    """Norm over channels and grid together, per sample; a weight and a bias per channel (a group norm of one group).

    Shape:
        `(B, C, H, W)` to the same, in the same memory layout.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__(1, channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return map_norm(x, self.weight, self.bias, self.eps)


def map_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm of one group.

    torch's own group norm of channels-last maps on a CPU takes the variance as a difference of squares, which loses a map whose
    mean is large against its spread; its layer norm is exact.
    """
    if x.device.type != 'cpu' or x.is_contiguous():
        return group_norm(x, 1, weight, bias, eps)
    x_bhwc = to_bhwc(x)
    normed = layer_norm(x_bhwc, x_bhwc.shape[1:], eps=eps)
    return to_bchw(torch.addcmul(bias, normed, weight)).to(x.dtype)


class StarReLU(nn.Module):
    """`scale * relu(x)^2 + bias` with one learnable scale and bias, starting at 1 and 0 (MetaFormer baselines, arXiv 2210.13452).

    Shape:
        Any to the same.
    """

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * squared_relu(x) + self.bias


class SquaredReLU(nn.Module):
    """`relu(x)^2`.

    Shape:
        Any to the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        return squared_relu(x)


def squared_relu(x: Tensor) -> Tensor:
    """`relu(x)^2`. In float16 it saturates instead of becoming infinite, which would turn into NaN what is computed from it."""
    return (x.clamp(0, LARGEST_ROOT) if x.dtype == torch.float16 else relu(x)).square()


class Mlp(nn.Module):
    """Linear `fc1`, activation `act`, linear `fc2`, on the last axis.

    Args:
        channels: of the input.
        hidden: of the layer in between.
        out_channels: of the output; default `channels`.
        act: makes the activation.
        bias: of both linear layers.

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


# functions that look at a tensor's dtype, device or layout are one node of an fx graph
fx.wrap('map_norm')
fx.wrap('squared_relu')

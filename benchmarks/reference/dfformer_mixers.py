"""The token mixers of DFFormer's published code: dynamic filter, separable convolution, global filter, AFNO.

Dynamic filters are resized in every forward, even to their own grid, as in the published dense backbones. The last two mixers were
published for one image size; here they take any size, as in mmfreq.

Legend: B batch, C channels, H W grid, F = W // 2 + 1, M = 2C mixed channels, N filters, K blocks, I O channels of a block.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softshrink

from mmfreq.models.dfformer import DFFormerArch

from .layers import Mlp, StarReLU, complex_linear, filtered, from_spectrum, full_precision, resized, small_normal, to_spectrum


class Mixer(nn.Module):
    """Linear layer to M channels, activation, an operator in space, linear layer back."""

    def __init__(self, channels: int, act: type[nn.Module]):
        super().__init__()
        self.pwconv1 = nn.Linear(channels, 2 * channels, bias=False)
        self.act1 = act()
        self.pwconv2 = nn.Linear(2 * channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pwconv1(x)
        y = self.act1(y)
        y = self.mix(y, x)
        return self.pwconv2(y)

    def mix(self, y: Tensor, x: Tensor) -> Tensor:
        """`(B, H, W, M)` to the same shape; `x` `(B, H, W, C)` is the input of the mixer."""
        raise NotImplementedError


class SepConv(Mixer):
    """Depthwise 7x7 convolution."""

    def __init__(self, channels: int, act: type[nn.Module]):
        super().__init__(channels, act)
        self.dwconv = nn.Conv2d(2 * channels, 2 * channels, 7, padding=3, groups=2 * channels, bias=False)

    def mix(self, y: Tensor, x: Tensor) -> Tensor:
        return self.dwconv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DynamicFilter(Mixer):
    """N filters, mixed for each sample and channel as a complex product over the whole half spectrum."""

    def __init__(self, channels: int, act: type[nn.Module], grid: int, num_filters: int, ratio: float):
        super().__init__(channels, act)
        self.num_filters = num_filters
        self.reweight = Mlp(channels, int(ratio * channels), num_filters * 2 * channels, StarReLU(), bias=False)
        self.complex_weights = small_normal(grid, grid // 2 + 1, num_filters, 2)

    def mix(self, y: Tensor, x: Tensor) -> Tensor:
        routing = self.reweight(x.mean(dim=(1, 2)))
        routing = routing.view(x.shape[0], self.num_filters, -1).softmax(dim=1)
        size = tuple(y.shape[1:3])
        with full_precision(x):
            spec = to_spectrum(y, (1, 2))
            weights = torch.view_as_complex(resized(self.complex_weights, size).contiguous())
            mixture = torch.einsum('bnm,hfn->bhfm', routing.to(torch.complex64), weights)
            return from_spectrum(spec * mixture, size, (1, 2))


class GlobalFilter(Mixer):
    """One filter per channel."""

    def __init__(self, channels: int, act: type[nn.Module], grid: int):
        super().__init__(channels, act)
        self.complex_weights = small_normal(grid, grid // 2 + 1, 2 * channels, 2)

    def mix(self, y: Tensor, x: Tensor) -> Tensor:
        weights = self.complex_weights
        height, width = y.shape[1:3]
        if weights.shape[:2] != (height, width // 2 + 1):
            weights = resized(weights, (height, width))
        return filtered(y, weights, (1, 2))


class AFNO2D(Mixer):
    """A two-layer block-diagonal network over the channels of each frequency, with a shortcut."""

    def __init__(self, channels: int, act: type[nn.Module]):
        super().__init__(channels, act)
        size = 2 * channels // 8
        self.w1, self.b1 = small_normal(2, 8, size, size), small_normal(2, 8, size)
        self.w2, self.b2 = small_normal(2, 8, size, size), small_normal(2, 8, size)

    def mix(self, y: Tensor, x: Tensor) -> Tensor:
        size = tuple(y.shape[1:3])
        with full_precision(x):
            spec = to_spectrum(y, (1, 2))
            blocks = spec.unflatten(3, (8, -1))
            re, im = complex_linear('bhfki,kio->bhfko', blocks.real, blocks.imag, self.w1, self.b1)
            re, im = torch.relu(re), torch.relu(im)
            re, im = complex_linear('bhfki,kio->bhfko', re, im, self.w2, self.b2)
            out = softshrink(torch.stack((re, im), dim=-1), 0.01)
            out = torch.view_as_complex(out).flatten(3)
            return y + from_spectrum(out, size, (1, 2))


def make_mixer(arch: DFFormerArch, name: str, channels: int, act: type[nn.Module], grid: int) -> Mixer:
    """The token mixer with this name in `arch.mixers`."""
    if name == 'dynamic':
        return DynamicFilter(channels, act, grid, arch.num_filters, arch.routing_ratio)
    if name == 'global':
        return GlobalFilter(channels, act, grid)
    return {'conv': SepConv, 'afno': AFNO2D}[name](channels, act)

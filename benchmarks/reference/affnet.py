"""AFFNet as published (arXiv 2307.14008): NCHW throughout, batch norms not folded, the spectral network as real products.

Legend: B batch, C channels, H W grid, F = W // 2 + 1, K = 8 blocks, I O channels of a block.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softshrink

from mmfreq.models.affnet import AFFNetArch

from .layers import complex_linear, from_spectrum, full_precision, small_normal, to_spectrum

BLOCKS = 8
THRESHOLD = 0.01


class ConvLayer(nn.Module):
    """Convolution without bias, batch norm, and SiLU if `act`."""

    def __init__(self, in_channels: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__()
        self.block = nn.Sequential()
        self.block.add_module('conv', nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False))
        self.block.add_module('norm', nn.BatchNorm2d(channels))
        if act:
            self.block.add_module('act', nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, 1x1 projection; a shortcut if the shapes are equal."""

    def __init__(self, in_channels: int, channels: int, expand: int, stride: int = 1):
        super().__init__()
        hidden = in_channels * expand
        self.block = nn.Sequential()
        self.block.add_module('exp_1x1', ConvLayer(in_channels, hidden))
        self.block.add_module('conv_3x3', ConvLayer(hidden, hidden, 3, stride, groups=hidden))
        self.block.add_module('red_1x1', ConvLayer(hidden, channels, act=False))
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut:
            return x + self.block(x)
        return self.block(x)


class AdaptiveFilter(nn.Module):
    """Mask of the spectrum, computed from the spectrum; plus the input."""

    def __init__(self, channels: int):
        super().__init__()
        size = channels // BLOCKS
        self.w1, self.b1 = small_normal(2, BLOCKS, size, size), small_normal(2, BLOCKS, size)
        self.w2, self.b2 = small_normal(2, BLOCKS, size, size), small_normal(2, BLOCKS, size)

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):
            spec = to_spectrum(x, (2, 3))
            blocks = spec.unflatten(1, (BLOCKS, -1))
            re, im = complex_linear('bkihf,kio->bkohf', blocks.real, blocks.imag, self.w1, self.b1[..., None, None])
            re, im = silu(re), silu(im)
            re, im = complex_linear('bkihf,kio->bkohf', re, im, self.w2, self.b2[..., None, None])
            mask = softshrink(torch.stack((re, im), dim=-1), THRESHOLD)
            mask = torch.view_as_complex(mask).flatten(1, 2)
            y = from_spectrum(mask * spec, tuple(x.shape[2:]), (2, 3))
        return y.to(x.dtype) + x


class Block(nn.Module):
    """Channels are mixed first, tokens second; each adds its own normalized input, and one shortcut is around both."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(1, channels)
        self.filter = AdaptiveFilter(channels)
        self.norm2 = nn.GroupNorm(1, channels)
        self.mlp = InvertedResidual(channels, channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        y = self.mlp(y)
        y = self.norm2(y)
        y = self.filter(y)
        return y + x


class AFFBlock(nn.Module):
    """Blocks, norm, 1x1 projection; then a 1x1 fusion with the input."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.global_rep = nn.Sequential(*(Block(channels) for _ in range(depth)), nn.GroupNorm(1, channels))
        self.conv_proj = ConvLayer(channels, channels, act=False)
        self.fusion = ConvLayer(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.global_rep(x)
        y = self.conv_proj(y)
        return self.fusion(torch.cat((x, y), dim=1))


class AFFNet(nn.Module):
    """Dense backbone at output stride 32; the maps of layer_2 .. layer_5.

    Args:
        arch: a record of `mmfreq.models.affnet.ARCHS`.
        img_size: ignored, nothing is stored at a grid.
        in_channels: channels of the image.
    """

    def __init__(self, arch: AFFNetArch, img_size: int, in_channels: int = 3):
        super().__init__()
        first, second = arch.stem
        widths = (second, *arch.channels)
        self.conv_1 = ConvLayer(in_channels, first, 3, stride=2)
        self.layer_1 = nn.Sequential(InvertedResidual(first, second, arch.expand))
        kept = [InvertedResidual(widths[1], widths[1], arch.expand) for _ in range(2)]
        self.layer_2 = nn.Sequential(InvertedResidual(widths[0], widths[1], arch.expand, stride=2), *kept)
        for i, depth in enumerate(arch.depths, start=1):
            down = InvertedResidual(widths[i], widths[i + 1], arch.expand, stride=2)
            self.add_module(f'layer_{i + 2}', nn.Sequential(down, AFFBlock(widths[i + 1], depth)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.conv_1(x)
        x = self.layer_1(x)
        outs = []
        for layer in (self.layer_2, self.layer_3, self.layer_4, self.layer_5):
            x = layer(x)
            outs.append(x)
        return tuple(outs)

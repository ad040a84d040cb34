"""HorNet as published (arXiv 2207.14284): maps are NCHW; only the MLPs are channels-last, between two permutations.

Legend: B batch, C channels, H W grid, F = W // 2 + 1, n order; D = C / 2^(n-1) + ... + C.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmfreq.models.hornet import HorNetArch

from .layers import filtered, small_normal


class ChannelsFirstNorm(nn.Module):
    """Layer norm over the channels of an NCHW map, written out; the difference from the mean is computed once."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(1, keepdim=True)
        variance = centered.pow(2).mean(1, keepdim=True)
        normed = centered / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class GlobalLocalFilter(nn.Module):
    """Norm; half of D channels through a 3x3 convolution, half through a global filter; interleaved; norm."""

    def __init__(self, channels: int, grid: int):
        super().__init__()
        half = channels // 2
        self.dw = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.complex_weight = small_normal(half, grid, grid // 2 + 1, 2)
        self.pre_norm = ChannelsFirstNorm(channels)
        self.post_norm = ChannelsFirstNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        local, everywhere = self.pre_norm(x).chunk(2, dim=1)
        local = self.dw(local)
        weight = self.complex_weight
        half_spectrum = (x.shape[2], x.shape[3] // 2 + 1)
        if tuple(weight.shape[1:3]) != half_spectrum:
            images = weight.permute(3, 0, 1, 2)
            weight = interpolate(images, size=half_spectrum, mode='bilinear', align_corners=True).permute(1, 2, 3, 0)
        everywhere = filtered(everywhere, weight, (2, 3))
        both = torch.cat((local.unsqueeze(2), everywhere.unsqueeze(2)), dim=2)
        return self.post_norm(both.reshape(x.shape))


class GnConv(nn.Module):
    """Recursive gated convolution; `grid` None for a 7x7 convolution in space."""

    def __init__(self, channels: int, order: int, grid: int | None):
        super().__init__()
        self.dims = [channels >> i for i in range(order)][::-1]
        total = sum(self.dims)
        self.proj_in = nn.Conv2d(channels, 2 * channels, 1)
        if grid is None:
            self.dwconv = nn.Conv2d(total, total, 7, padding=3, groups=total)
        else:
            self.dwconv = GlobalLocalFilter(total, grid)
        self.pws = nn.ModuleList(nn.Conv2d(self.dims[i], self.dims[i + 1], 1) for i in range(order - 1))
        self.proj_out = nn.Conv2d(channels, channels, 1)
        self.s = 1 / 3

    def forward(self, x: Tensor) -> Tensor:
        p, q = torch.split(self.proj_in(x), (self.dims[0], sum(self.dims)), dim=1)
        q = self.dwconv(q) * self.s
        parts = torch.split(q, self.dims, dim=1)
        x = p * parts[0]
        for pw, part in zip(self.pws, parts[1:]):
            x = pw(x) * part
        return self.proj_out(x)


class Block(nn.Module):
    """gnConv, then MLP, each with a norm before and a factor `gamma` per channel after."""

    def __init__(self, channels: int, order: int, grid: int | None):
        super().__init__()
        self.norm1 = ChannelsFirstNorm(channels)
        self.gnconv = GnConv(channels, order, grid)
        self.gamma1 = nn.Parameter(1e-6 * torch.ones(channels))
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma2 = nn.Parameter(1e-6 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma1.view(-1, 1, 1) * self.gnconv(self.norm1(x))
        y = x.permute(0, 2, 3, 1)
        y = self.norm2(y)
        y = self.pwconv1(y)
        y = self.act(y)
        y = self.pwconv2(y)
        y = self.gamma2 * y
        return x + y.permute(0, 3, 1, 2)


class HorNet(nn.Module):
    """Dense backbone.

    Args:
        arch: a record of `mmfreq.models.hornet.ARCHS`.
        img_size: square image size whose grids the filters are stored at.
        in_channels: channels of the image.
    """

    def __init__(self, arch: HorNetArch, img_size: int, in_channels: int = 3):
        super().__init__()
        dims = [arch.base_dim * 2**i for i in range(4)]
        stem = nn.Sequential(nn.Conv2d(in_channels, dims[0], 4, stride=4), ChannelsFirstNorm(dims[0]))
        self.downsample_layers = nn.ModuleList([stem])
        self.stages = nn.ModuleList()
        for i in range(4):
            if i:
                down = nn.Sequential(ChannelsFirstNorm(dims[i - 1]), nn.Conv2d(dims[i - 1], dims[i], 2, stride=2))
                self.downsample_layers.append(down)
            grid = img_size // 2 ** (i + 2) if arch.global_filter[i] else None
            self.stages.append(nn.Sequential(*(Block(dims[i], arch.orders[i], grid) for _ in range(arch.depths[i]))))
            self.add_module(f'norm{i}', ChannelsFirstNorm(dims[i]))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = []
        for i in range(4):
            x = self.downsample_layers[i](x)
            x = self.stages[i](x)
            outs.append(getattr(self, f'norm{i}')(x))
        return tuple(outs)

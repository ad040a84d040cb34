"""HorNet and HorNet-GF: a ConvNeXt-like pyramid whose token mixer is gnConv.

Paper: Rao et al., "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions", NeurIPS 2022,
arXiv 2207.14284. Reference implementation: raoyongming/HorNet (MIT). Parameter names, layouts and numbers are the published ones.
Differences: output norms exist only for `out_indices` (published: always four), and under autocast the global filter returns its
input's dtype (published: float32).

Filters stored at `img_size` are resized to the grid of the map by the published rule, `bilinear` (`mmfreq.ops.resize`).

Legend: B batch, C channels, H W grid, n order of gnConv; `x_bhwc` is channels-last.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mmfreq.layers import GnConv, LayerNorm2d
from mmfreq.layers.basic import to_bchw, to_bhwc
from mmfreq.models._base import (
    STRIDES,
    NormedHead,
    Preprocessing,
    StagedBackbone,
    drop_path_rates,
    find_arch,
    init_linear,
    init_linear_and_conv,
)
from mmfreq.registry import MODELS


@dataclass(frozen=True)
class HorNetArch:
    """One row of the table; `global_filter`: which stages have a global-local filter instead of the 7x7 convolution."""

    base_dim: int
    global_filter: tuple[bool, ...] = (False, False, False, False)
    img_size: int = 224  # filters are stored at the grids of this square image
    depths: tuple[int, ...] = (2, 3, 18, 2)
    orders: tuple[int, ...] = (2, 3, 4, 5)


GF = (False, False, True, True)
ARCHS = {
    'hornet-micro': HorNetArch(16, GF, depths=(1, 1, 2, 1)),  # not published; for tests and the toy run
    'hornet-tiny-7x7': HorNetArch(64),
    'hornet-tiny-gf': HorNetArch(64, GF),
    'hornet-small-7x7': HorNetArch(96),
    'hornet-small-gf': HorNetArch(96, GF),
    'hornet-base-7x7': HorNetArch(128),
    'hornet-base-gf': HorNetArch(128, GF),
    'hornet-base-gf-img384': HorNetArch(128, GF, 384),
    'hornet-large-7x7': HorNetArch(192),
    'hornet-large-gf': HorNetArch(192, GF),
    'hornet-large-gf-img384': HorNetArch(192, GF, 384),
}
GNCONV_SCALE = 1 / 3  # 1 / alpha in the paper
LAYER_SCALE_INIT = 1e-6


class Stem(nn.Sequential):
    """`norm(conv(x))`: 4x4 convolution of stride 4 without padding, then the norm.

    Shape:
        `(B, in_channels, H, W)` to `(B, dim, H // 4, W // 4)`.
    """

    def __init__(self, in_channels: int, dim: int):
        super().__init__(nn.Conv2d(in_channels, dim, 4, stride=4), LayerNorm2d(dim))


class Downsampling(nn.Sequential):
    """`conv(norm(x))`: the norm, then a 2x2 convolution of stride 2 without padding; odd sides are rounded down.

    Shape:
        `(B, dim, H, W)` to `(B, out_dim, H // 2, W // 2)`.
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__(LayerNorm2d(dim), nn.Conv2d(dim, out_dim, 2, stride=2))


class HorNetBlock(nn.Module):
    """gnConv, then an MLP, each with a norm before, a layer scale after and a residual (the paper's figure 2)::

        x = x + drop_path1(gamma1 * gnconv(norm1(x)))
        x = x + drop_path2(gamma2 * pwconv2(GELU(pwconv1(norm2(x)))))      linear layers C to 4C to C

    gnConv of order n, `mmfreq.layers.GnConv`, widths dims = C / 2^(n-1), ..., C / 2, C::

        p, q = split(proj_in(x))                             1x1 convolution to 2C channels: dims[0] and the rest
        q_0, ..., q_{n-1} = split(dwconv(q) / 3)             spatial mixing, widths dims
        p = p * q_0
        p = pws[k](p) * q_{k+1}   for k = 0 .. n-2           1x1 convolution dims[k] to dims[k+1]
        y = proj_out(p)                                      1x1 convolution C to C

    `dwconv` is a depth-wise 7x7 convolution or, with a `grid`, the global-local filter `mmfreq.layers.GlobalLocalFilter`::

        l, g = halves of the channels of pre_norm(q)
        y = post_norm(interleave(depth-wise 3x3 of l, irfft2(K * rfft2(g))))

    where K is stored at `grid` and resized to the map by `filter_resize`.

    Args:
        dim: C, divisible by 2^(order-1).
        order, grid, filter_resize, spectral: as in `GnConv`.
        drop_path: probability of dropping each residual branch, per sample.
        layer_scale: initial value of `gamma1` and `gamma2`; not positive: they do not exist.

    Shape:
        `(B, C, H, W)` to the same.
    """

    gamma1: nn.Parameter | None
    gamma2: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        order: int,
        grid: int | None = None,
        drop_path: float = 0.0,
        layer_scale: float = LAYER_SCALE_INIT,
        filter_resize: str = 'bilinear',
        spectral: str = 'auto',
    ):
        super().__init__()
        self.norm1 = LayerNorm2d(dim)
        self.gnconv = GnConv(dim, order=order, grid=grid, scale=GNCONV_SCALE, filter_resize=filter_resize, spectral=spectral)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        for name in ('gamma1', 'gamma2'):
            gamma = nn.Parameter(torch.full((dim,), layer_scale)) if layer_scale > 0 else None
            self.register_parameter(name, gamma)
        self.drop_path1 = StochasticDepth(drop_path, 'row')
        self.drop_path2 = StochasticDepth(drop_path, 'row')

    def forward(self, x: Tensor) -> Tensor:
        y = self.gnconv(self.norm1(x))
        x = x + self.drop_path1(y if self.gamma1 is None else self.gamma1.view(-1, 1, 1) * y)
        y = self.pwconv2(self.act(self.pwconv1(self.norm2(to_bhwc(x)))))
        return x + self.drop_path2(to_bchw(y if self.gamma2 is None else self.gamma2 * y))


@MODELS.register_module()
class HorNet(StagedBackbone):
    """HorNet backbone for dense prediction.

    Args:
        arch, in_channels, out_indices, filter_resize, spectral, memory_efficient, frozen_stages, with_cp, init_cfg: as in
            `FrequencyBackbone`.
        drop_path_rate: of the last block; rates rise linearly from 0.
        img_size: side of the square image, in pixels, at whose grids the filters are stored; default the arch's (224, or 384). The
            published ADE20K configs store them at 384. For maps of other sizes forward resizes them, `bilinear` as published.

    Shape:
        `(N, in_channels, H, W)`, H and W >= 32, to one `(N, C, h, w)` for each of `out_indices`, normed per stage; h, w = H, W
        over the stride, rounded down.
    """

    family = 'hornet'
    default_arch = 'hornet-tiny-gf'
    published_resize = 'bilinear'
    ARCHS = ARCHS

    def build(self, drop_path_rate: float) -> None:
        arch = self.arch
        self.channels = tuple(arch.base_dim * 2**i for i in range(self.num_stages))
        self.strides = STRIDES
        self.arch_depths = arch.depths
        self.downsample_layers = nn.ModuleList([Stem(self.in_channels, self.channels[0])])
        built = self.channels[: self.built_stages]
        self.downsample_layers.extend(Downsampling(a, b) for a, b in pairwise(built))
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path_rate, arch.depths)[: self.built_stages]):
            grid = self.img_size // STRIDES[i] if arch.global_filter[i] else None
            shared = dict(order=arch.orders[i], grid=grid, filter_resize=self.filter_resize, spectral=self.spectral)
            blocks = (HorNetBlock(self.channels[i], drop_path=rate, **shared) for rate in rates)
            self.stages.append(self.stage(blocks))
        for i in self.out_indices:
            self.add_module(f'norm{i}', LayerNorm2d(self.channels[i]))
        self.apply(init_linear)

    def published_img_size(self) -> int:
        return self.arch.img_size

    def layer_decay_group(self, name: str, decay_type: str) -> int | None:
        """As published (`LearningRateDecayOptimizerConstructorHorNet`); layer-wise groups go up to 12 for any `num_layers`."""
        position = self.block_position(name)
        if position is None:
            return None
        stage, block = position
        if name.startswith('downsample_layers.'):
            return 0 if decay_type == 'stage_wise' else (0, 2, 3, 12)[max(stage, 0)]
        return stage + 1 if decay_type == 'stage_wise' else (1, 2, min(3 + block // 2, 11), 12)[stage]

    @classmethod
    def published_preprocessing(cls, arch: str) -> Preprocessing:
        """At 384 the published evaluation resizes the image to the square without a crop."""
        size = find_arch(arch, cls.ARCHS)[1].img_size
        return replace(cls.preprocessing, size=size, resize=256 if size == 224 else None)


class HorNetClassifier(NormedHead, HorNet):
    """Published ImageNet classifier, `head(norm(mean of x over the map))`; arguments as in `NormedHead`."""

    def __init__(self, arch: str | dict | None = None, num_classes: int = 1000, **kwargs):
        super().__init__(arch, num_classes, **kwargs)
        self.apply(init_linear_and_conv)

"""DFFormer, CDFFormer and GFFormer: MetaFormers whose token mixers are dynamic filters, convolutions, or global filters.

Paper: Tatsunami and Taki, "FFT-based Dynamic Token Mixer for Vision", AAAI 2024, arXiv 2303.03932. Reference implementation:
okojoalg/dfformer (MIT; its model file carries the Apache-2.0 notice of MetaFormer baselines, arXiv 2210.13452). Parameter names,
layouts and numbers are the published ones. Differences: the classifiers and `gfformer-s18`, too, take any image size (published:
the training size only); output norms exist only for `out_indices`.

Filters stored at `img_size` are resized to the grid of the map by the rule of the published dense backbones, `bicubic`
(`mmfreq.ops.resize`).

Legend: B batch, C channels, H W grid, M = 2C mixed channels, h w stored grid, F = w // 2 + 1, K blocks; `x_bhwc` is channels-last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import relu
from torchvision.ops import StochasticDepth

from mmfreq.layers import DynamicFilter, Mlp, SquaredReLU, StarReLU, StoredFilter
from mmfreq.layers.basic import to_bchw, to_bhwc
from mmfreq.layers.filters import check_choice
from mmfreq.models._base import (
    STRIDES,
    FrequencyClassifier,
    Preprocessing,
    StagedBackbone,
    channels_last_on_cpu,
    drop_path_rates,
    final_linear,
    init_linear_and_conv,
)
from mmfreq.ops import apply_filter, block_mlp, map_spectrum
from mmfreq.registry import MODELS


@dataclass(frozen=True)
class DFFormerArch:
    """One row of the table; `mixers` names one of `MIXERS` per stage."""

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    mixers: tuple[str, str, str, str] = ('dynamic', 'dynamic', 'dynamic', 'dynamic')
    num_filters: int = 4
    routing_ratio: float = 0.25
    act: str = 'star_relu'  # key of `ACTIVATIONS`, for the mixers and the MLPs; the routing always has StarReLU


S18, S36 = (3, 3, 9, 3), (3, 12, 18, 3)
S, M, B = (64, 128, 320, 512), (96, 192, 384, 576), (128, 256, 512, 768)
CONV_FIRST = ('conv', 'conv', 'dynamic', 'dynamic')
ARCHS = {
    'dfformer-micro': DFFormerArch((1, 1, 2, 1), (16, 32, 48, 64)),  # the micro rows are not published; for tests
    'cdfformer-micro': DFFormerArch((1, 1, 2, 1), (16, 32, 48, 64), CONV_FIRST),
    'dfformer-s18': DFFormerArch(S18, S),
    'dfformer-s36': DFFormerArch(S36, S),
    'dfformer-m36': DFFormerArch(S36, M),
    'dfformer-b36': DFFormerArch(S36, B),
    'cdfformer-s18': DFFormerArch(S18, S, CONV_FIRST),
    'cdfformer-s36': DFFormerArch(S36, S, CONV_FIRST),
    'cdfformer-m36': DFFormerArch(S36, M, CONV_FIRST),
    'cdfformer-b36': DFFormerArch(S36, B, CONV_FIRST),
    'gfformer-s18': DFFormerArch(S18, S, ('global',) * 4),
    'dfformer-s18-k2': DFFormerArch(S18, S, num_filters=2),
    'dfformer-s18-d8': DFFormerArch(S18, S, routing_ratio=0.125),
    'dfformer-s18-gelu': DFFormerArch(S18, S, act='gelu'),
    'dfformer-s18-relu': DFFormerArch(S18, S, act='relu'),
    'dfformer-s18-afno': DFFormerArch(S18, S, ('afno',) * 4),
}
ACTIVATIONS = {'star_relu': StarReLU, 'gelu': nn.GELU, 'relu': nn.ReLU}
MIXERS = ('dynamic', 'conv', 'global', 'afno')
MLP_RATIO = 4
HEAD_RATIO = 4  # of the classifier
EXPANSION = 2  # M / C
AFNO_BLOCKS = 8
AFNO_THRESHOLD = 0.01
SCALED_SKIPS = (False, False, True, True)  # stages whose skip paths have a learned scale


class Downsampling(nn.Module):
    """`post_norm(conv(x))` as stem, `conv(pre_norm(x))` between stages; norms have no bias.

    Args:
        in_channels, out_channels, kernel, stride, padding: of the convolution.
        norm: 'post_norm' or 'pre_norm'.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, h, w)`.
    """

    post_norm: nn.Module
    pre_norm: nn.Module

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, padding: int, norm: str):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        self.add_module(norm, plain_norm(out_channels if norm == 'post_norm' else in_channels))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, 'post_norm'):
            return to_bchw(self.post_norm(to_bhwc(self.conv(x))))
        return self.conv(to_bchw(self.pre_norm(to_bhwc(x))))


class Scale(nn.Module):
    """`scale * x` with a learned factor per channel, initially 1.

    Shape:
        `(..., C)` to the same.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class SepConv(nn.Module):
    """`pwconv2(dwconv(act1(pwconv1(x))))`: linear C to M, activation, depth-wise 7x7, linear M to C (ConvFormer, MobileNetV2).

    Args:
        channels: C.
        act: class of the activation.

    Shape:
        `(B, H, W, C)` to the same.
    """

    def __init__(self, channels: int, act: Callable[[], nn.Module] = StarReLU):
        super().__init__()
        mixed = EXPANSION * channels
        self.pwconv1 = nn.Linear(channels, mixed, bias=False)
        self.act1 = act()
        self.dwconv = nn.Conv2d(mixed, mixed, 7, padding=3, groups=mixed, bias=False)
        self.pwconv2 = nn.Linear(mixed, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = to_bchw(self.act1(self.pwconv1(x)))
        return self.pwconv2(to_bhwc(self.dwconv(y)))


class GlobalFilterMixer(StoredFilter):
    """`pwconv2(irfft2(K * rfft2(act1(pwconv1(x)))))`: linear C to M, activation, a filter per channel, linear M to C (GFFormer).

    Args:
        channels: C.
        grid, filter_resize, spectral: as in `StoredFilter`.
        act: class of the activation.

    Shape:
        `(B, H, W, C)` to the same; the filter K is `(h, F, M, 2)`.
    """

    stored_name = 'complex_weights'

    def __init__(
        self,
        channels: int,
        grid: int | tuple[int, int],
        filter_resize: str = 'bicubic',
        spectral: str = 'auto',
        act: Callable[[], nn.Module] = StarReLU,
    ):
        mixed = EXPANSION * channels
        super().__init__(mixed, grid, filter_resize, spectral, grid_first=True)
        self.pwconv1 = nn.Linear(channels, mixed, bias=False)
        self.act1 = act()
        self.pwconv2 = nn.Linear(mixed, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.pwconv1(x))
        return self.pwconv2(apply_filter(y, self.filter_for((x.shape[1], x.shape[2])), (1, 2), self.spectral))


class AFNOMixer(nn.Module):
    """The mixer of "Adaptive Fourier Neural Operators" between two linear layers (Guibas et al., arXiv 2111.13587; ablation)::

        z = act1(pwconv1(x))                                  C to M channels
        s = rfft2(z)
        y = pwconv2(z + irfft2(softshrink(relu(s W1 + b1) W2 + b2)))    complex, block-diagonal over the channels; M to C channels

    The network computes the new spectrum, not a mask as in AFFNet.

    Args:
        channels: C; 2C divisible by 8.
        spectral: backend of `mmfreq.ops.spectral`.
        act: class of the activation `act1`.

    Shape:
        `(B, H, W, C)` to the same; any grid with the same parameters.
    """

    w1: nn.Parameter
    b1: nn.Parameter
    w2: nn.Parameter
    b2: nn.Parameter

    def __init__(self, channels: int, spectral: str = 'auto', act: Callable[[], nn.Module] = StarReLU):
        super().__init__()
        mixed = EXPANSION * channels
        if mixed % AFNO_BLOCKS:
            raise ValueError(f'{EXPANSION} * channels of an AFNO mixer must be divisible by {AFNO_BLOCKS}, got {channels} channels')
        self.spectral = spectral
        size = mixed // AFNO_BLOCKS
        self.pwconv1 = nn.Linear(channels, mixed, bias=False)
        self.act1 = act()
        for name, shape in (('w1', (size, size)), ('b1', (size,)), ('w2', (size, size)), ('b2', (size,))):
            self.register_parameter(name, nn.Parameter(0.02 * torch.randn(2, AFNO_BLOCKS, *shape)))
        self.pwconv2 = nn.Linear(mixed, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.pwconv1(x))
        mixed = afno_network(to_bchw(y), self.w1, self.b1, self.w2, self.b2, self.spectral)
        return self.pwconv2(y + to_bhwc(mixed))


def afno_network(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, backend: str) -> Tensor:
    """`irfft2(network(rfft2(x)))` of `AFNOMixer`; `(B, M, H, W)` to the same, weights as in `block_mlp`."""

    def network(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
        first, second = ((w.to(re.dtype), b.to(re.dtype)) for w, b in ((w1, b1), (w2, b2)))
        return block_mlp(re, im, first, second, relu, AFNO_THRESHOLD)

    return map_spectrum(x, network, backend=backend)


class MetaFormerBlock(nn.Module):
    """Token mixer, then MLP, each with a norm before, and a learned scale on the skip path, not on the branch::

        x = res_scale1 * x + drop_path1(token_mixer(norm1(x)))
        x = res_scale2 * x + drop_path2(fc2(act(fc1(norm2(x)))))

    Args:
        channels: C.
        token_mixer: a module for channels-last maps.
        drop_path: probability of dropping each branch, per sample.
        act: class of the MLP's activation.
        scaled_skips: whether the scales exist; else they are 1.

    Shape:
        `(B, C, H, W)` to the same.
    """

    def __init__(
        self,
        channels: int,
        token_mixer: nn.Module,
        drop_path: float = 0.0,
        act: Callable[[], nn.Module] = StarReLU,
        scaled_skips: bool = False,
    ):
        super().__init__()
        self.norm1 = plain_norm(channels)
        self.token_mixer = token_mixer
        self.res_scale1 = Scale(channels) if scaled_skips else nn.Identity()
        self.norm2 = plain_norm(channels)
        self.mlp = Mlp(channels, MLP_RATIO * channels, act=act, bias=False)
        self.res_scale2 = Scale(channels) if scaled_skips else nn.Identity()
        self.drop_path1 = StochasticDepth(drop_path, 'row')
        self.drop_path2 = StochasticDepth(drop_path, 'row')

    def forward(self, x: Tensor) -> Tensor:
        x = to_bhwc(x)
        x = self.res_scale1(x) + self.drop_path1(self.token_mixer(self.norm1(x)))
        x = self.res_scale2(x) + self.drop_path2(self.mlp(self.norm2(x)))
        return to_bchw(x)


@MODELS.register_module()
class DFFormer(StagedBackbone):
    """DFFormer, CDFFormer or GFFormer backbone for dense prediction, depending on the arch.

    Args:
        arch, in_channels, out_indices, filter_resize, spectral, memory_efficient, frozen_stages, with_cp, init_cfg: as in
            `FrequencyBackbone`.
        drop_path_rate: of the last block; rates rise linearly from 0. Published dense trainings: 0.
        img_size: side of the square image, in pixels, at whose grids the filters are stored; default 224, that of the released
            weights. The published Semantic FPN stores them at 512, RetinaNet at 800. Filters are resized, `bicubic` as published,
            when a file is loaded and again in forward for maps of other sizes; the two steps are not equal to one.

    Shape:
        `(N, in_channels, H, W)`, H and W >= 32, to one `(N, C, h, w)` for each of `out_indices`, normed per stage. The stem gives
        (H - 3) // 4 + 1 rows, each later stage half of them, rounded up.
    """

    family = 'dfformer'
    default_arch = 'dfformer-s18'
    published_resize = 'bicubic'
    preprocessing = Preprocessing(resize=224)
    ARCHS = ARCHS

    def build(self, drop_path_rate: float) -> None:
        arch = self.arch
        self.channels = tuple(arch.dims)
        self.strides = STRIDES
        self.arch_depths = tuple(arch.depths)
        built = self.channels[: self.built_stages]
        self.downsample_layers = nn.ModuleList([Downsampling(self.in_channels, built[0], 7, 4, 2, 'post_norm')])
        self.downsample_layers.extend(Downsampling(a, b, 3, 2, 1, 'pre_norm') for a, b in pairwise(built))
        act = ACTIVATIONS[check_choice('act', arch.act, tuple(ACTIVATIONS))]
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path_rate, arch.depths)[: self.built_stages]):
            blocks = (MetaFormerBlock(arch.dims[i], self.mixer(i, act), rate, act, SCALED_SKIPS[i]) for rate in rates)
            self.stages.append(self.stage(blocks))
        for i in self.out_indices:
            self.add_module(f'norm{i}', nn.LayerNorm(arch.dims[i], eps=1e-6))
        self.apply(init_linear_and_conv)

    def mixer(self, stage: int, act: Callable[[], nn.Module]) -> nn.Module:
        """A new token mixer for a block of `stage`."""
        arch, channels, grid = self.arch, self.arch.dims[stage], self.img_size // STRIDES[stage]
        name = check_choice('token mixer', arch.mixers[stage], MIXERS)
        if name == 'conv':
            return SepConv(channels, act)
        if name == 'global':
            return GlobalFilterMixer(channels, grid, self.filter_resize, self.spectral, act)
        if name == 'afno':
            return AFNOMixer(channels, self.spectral, act)
        return DynamicFilter(
            channels,
            grid,
            self.filter_resize,
            self.spectral,
            num_filters=arch.num_filters,
            routing_ratio=arch.routing_ratio,
            act=act,
            channels_last=True,
        )

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        return super().forward_stages(channels_last_on_cpu(x))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = self.forward_stages(x)
        return tuple(to_bchw(getattr(self, f'norm{i}')(to_bhwc(outs[i]))) for i in self.out_indices)

    def stage_sides(self, side: int) -> tuple[int, ...]:
        sides = [(side - 3) // 4 + 1]
        for _ in range(self.num_stages - 1):
            sides.append((sides[-1] + 1) // 2)
        return tuple(sides)


class MlpHead(nn.Module):
    """`fc2(drop(norm(relu(fc1(x))^2)))`; the norm has eps 1e-5, unlike all others.

    Args:
        channels: C of the pooled features.
        num_classes: width of `fc2`; 0 for no such layer.
        dropout: probability, before `fc2`.

    Shape:
        `(N, C)` to `(N, num_classes)`.
    """

    def __init__(self, channels: int, num_classes: int, dropout: float = 0.0):
        super().__init__()
        hidden = HEAD_RATIO * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.act = SquaredReLU()
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = final_linear(hidden, num_classes)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(self.norm(self.act(self.fc1(x))))
        return x if pre_logits else self.fc2(x)


class DFFormerClassifier(FrequencyClassifier, DFFormer):
    """Published ImageNet classifier, `head(norm(mean of x over the map))`.

    Args:
        arch: as in `DFFormer`.
        num_classes: width of `head.fc2`; 0 for no such layer.
        drop_rate: dropout before it.
        **kwargs: as in `DFFormer`, but for `out_indices`: a classifier has no output norms.

    Shape:
        `(N, in_channels, H, W)` to logits `(N, num_classes)`.
    """

    last_layer = 'head.fc2'

    def __init__(self, arch: str | dict = 'dfformer-s18', num_classes: int = 1000, drop_rate: float = 0.0, **kwargs):
        super().__init__(arch, out_indices=(), **kwargs)
        self.num_classes = num_classes
        self.head_features = HEAD_RATIO * self.channels[-1]
        self.norm = nn.LayerNorm(self.channels[-1], eps=1e-6)
        self.head = MlpHead(self.channels[-1], num_classes, drop_rate)
        self.head.apply(init_linear_and_conv)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(self.norm(x.mean((-2, -1))), pre_logits)


def plain_norm(channels: int) -> nn.LayerNorm:
    """Layer norm over the last axis, without a bias."""
    return nn.LayerNorm(channels, eps=1e-6, bias=False)


# torch.fx cannot trace conditions on a tensor's dtype, device or size: these functions stay one node of a graph
fx.wrap('afno_network')
fx.wrap('apply_filter')
fx.wrap('channels_last_on_cpu')

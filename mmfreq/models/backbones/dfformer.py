"""DFFormer, CDFFormer and GFFormer: MetaFormers whose token mixers are dynamic filters, convolutions, or global filters.

Paper: Tatsunami and Taki, "FFT-based Dynamic Token Mixer for Vision", AAAI 2024, arXiv 2303.03932. Published code:
okojoalg/dfformer (MIT; its model file carries the Apache-2.0 notice of MetaFormer baselines, arXiv 2210.13452). Names, layouts and
numbers are the published ones; the code is ours. Ours differs in: filters are resized for any map by the rule of the published
dense backbones, in the classifiers and in `gfformer-s18` too (published: the training size alone); output norms exist only for
`out_indices`.

Legend: B batch, C channels, H W grid, M = 2C mixed channels; maps are channels-last inside.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mmfreq.layers import DynamicFilter, Mlp, StarReLU
from mmfreq.layers.eval_cache import CachingModule, EvalCache
from mmfreq.layers.fused import add_branch, fusable, mlp_residual, strided_conv
from mmfreq.layers.layout import to_bchw, to_bhwc
from mmfreq.layers.stored_filter import choose
from mmfreq.models.backbones.base import Preprocessing, drop_path_rates
from mmfreq.models.backbones.dfformer_mixers import AFNOMixer, GlobalFilterMixer, SepConv
from mmfreq.models.backbones.staged import STRIDES, StagedBackbone
from mmfreq.registry import MODELS


@dataclass(frozen=True)
class DFFormerArch:
    """One row of the table; `mixers` names one of `MIXERS` per stage."""

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    mixers: tuple[str, str, str, str] = ('dynamic', 'dynamic', 'dynamic', 'dynamic')
    num_filters: int = 4
    routing_ratio: float = 0.25
    act: str = 'star_relu'  # of the mixers and the MLPs; the routing has StarReLU in any case


S18, S36 = (3, 3, 9, 3), (3, 12, 18, 3)
S, M, B = (64, 128, 320, 512), (96, 192, 384, 576), (128, 256, 512, 768)
CONV_FIRST = ('conv', 'conv', 'dynamic', 'dynamic')
ARCHS = {
    'dfformer-micro': DFFormerArch((1, 1, 2, 1), (16, 32, 48, 64)),  # the micro rows are ours, for tests
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
SCALED_SKIPS = (False, False, True, True)  # stages whose skip paths have a learned scale


class Downsampling(nn.Module):
    """Stem: convolution, then a norm. Between stages: a norm, then a convolution. Norms have no bias.

    Args:
        in_channels, out_channels, kernel, stride, padding: of the convolution.
        norm: 'post_norm' or 'pre_norm'.

    Shape:
        The stem takes `(B, in_channels, H, W)`, the others `(B, H, W, in_channels)`; result `(B, h, w, out_channels)`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, padding: int, norm: str):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        self.add_module(norm, plain_norm(out_channels if norm == 'post_norm' else in_channels))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, 'post_norm'):
            return self.post_norm(strided_conv(self.conv, to_bhwc(x)))
        return strided_conv(self.conv, self.pre_norm(x))


class Scale(nn.Module):
    """A learned factor per channel, starting at 1.

    Shape:
        `(..., C)` to the same.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class MetaFormerBlock(CachingModule):
    """Token mixer, then MLP, each a residual with a norm before; the learned scale is on the skip path, not on the branch.

    Args:
        channels: C.
        token_mixer: of channels-last maps.
        drop_path: probability of dropping each branch, per sample.
        act: makes the MLP's activation.
        scaled_skips: with the learned scales `res_scale1` and `res_scale2`.

    Shape:
        `(B, H, W, C)` to the same.
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
        self.drop_path = StochasticDepth(drop_path, 'row')
        self._weights = EvalCache()

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(x)
        if not fusable(self.mlp):
            return self.res_scale2(x) + self.drop_path(self.mlp(self.norm2(x)))
        mlp, unseen = (self.mlp.fc1, self.mlp.act, self.mlp.fc2), fusable(self.res_scale2)
        return mlp_residual(self.res_scale2(x), x, self.norm2, *mlp, None, self.drop_path, self._weights, overwrite=unseen)

    def mix(self, x: Tensor) -> Tensor:
        """The first residual."""
        if fusable(self.token_mixer, self.norm1) and hasattr(self.token_mixer, 'mix_normed'):
            branch = self.token_mixer.mix_normed(x, self.norm1)
        else:
            branch = self.token_mixer(self.norm1(x))
        return add_branch(self.res_scale1(x), branch, self.drop_path, self.token_mixer)


@MODELS.register_module()
class DFFormer(StagedBackbone):
    """DFFormer, CDFFormer or GFFormer backbone for dense prediction; the arch says which.

    Args:
        arch, in_channels, out_indices, filter_resize, spectral, frozen_stages, with_cp, init_cfg: as in `FrequencyBackbone`.
        drop_path_rate: of the last block; rates rise linearly from 0. The published dense trainings have none.
        img_size: square image size, in pixels, at whose grids the filters are stored; default 224, that of the released weights.
            The published Semantic FPN stores them at 512, RetinaNet at 800. Files of another size are resized when they are loaded,
            and maps of another size resize the filter in forward; both steps are published, and are not the same as one.

    Shape:
        `(N, in_channels, H, W)`, H and W >= 32, to one `(N, C, h, w)` for each of `out_indices`, normed per stage. The stem rounds
        (H - 3) / 4 down and adds 1, the others round up. `gfformer-s18` and `dfformer-s18-afno`, published for 224 alone, take any
        size too: the first by the same rule, the second since its weights know no grid.
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
        act = ACTIVATIONS[choose('act', arch.act, tuple(ACTIVATIONS))]
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path_rate, arch.depths)[: self.built_stages]):
            blocks = (MetaFormerBlock(arch.dims[i], self.mixer(i, act), rate, act, SCALED_SKIPS[i]) for rate in rates)
            self.stages.append(nn.Sequential(*blocks))
        for i in self.out_indices:
            self.add_module(f'norm{i}', nn.LayerNorm(arch.dims[i], eps=1e-6))
        self.apply(init_published)

    def mixer(self, stage: int, act: Callable[[], nn.Module]) -> nn.Module:
        """A new token mixer of `stage`."""
        arch, channels, grid = self.arch, self.arch.dims[stage], self.img_size // STRIDES[stage]
        kind = choose('token mixer', arch.mixers[stage], MIXERS)
        if kind == 'conv':
            return SepConv(channels, act)
        if kind == 'global':
            return GlobalFilterMixer(channels, grid, self.filter_resize, self.spectral, act)
        if kind == 'afno':
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
        return [to_bchw(x_bhwc) for x_bhwc in super().forward_stages(x)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs_bhwc = super().forward_stages(x)
        return tuple(to_bchw(getattr(self, f'norm{i}')(outs_bhwc[i])) for i in self.out_indices)

    def stage_sides(self, side: int) -> tuple[int, ...]:
        sides = [(side - 3) // 4 + 1]
        for _ in range(self.num_stages - 1):
            sides.append((sides[-1] + 1) // 2)
        return tuple(sides)


def plain_norm(channels: int) -> nn.LayerNorm:
    """Layer norm over the last axis, without a bias."""
    return nn.LayerNorm(channels, eps=1e-6, bias=False)


def init_published(module: nn.Module) -> None:
    """Linear layers and convolutions truncated normal 0.02, biases 0."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

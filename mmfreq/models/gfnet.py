"""GFNet, its pyramid GFNet-H, and a reconstruction of GFNet-CNN: the token mixers are global filters.

Paper: Rao et al., "Global Filter Networks for Image Classification", NeurIPS 2021, arXiv 2107.00645. Reference implementation:
raoyongming/GFNet (MIT), classifiers at 224x224 only. Parameter names, layouts and numbers are the published ones. Difference: any
image size works. GFNet-H has no norm between stages and none in the downsampling.

Filters and position embeddings stored at `img_size` are resized when a file is loaded, and in forward for maps of other sizes, by
the published rule for fine-tuning at another resolution: filters `bicubic` with align_corners=True (`mmfreq.ops.resize_filter`),
position embeddings bicubic with align_corners=False (`mmfreq.ops.resize_tokens`).

GFNet-CNN is a reconstruction of the hierarchical models of the TPAMI version (Rao et al., "GFNet: Global Filter Networks for Visual
Recognition", IEEE TPAMI 45(9), 2023) from its abstract: its code, sizes and weights were never released. The abstract describes
models with designs of CNNs; the authors' answer in issue 16 of raoyongming/GFNet shows a layer that filters half of the channels.
The reconstruction is a ConvNeXt-like pyramid (Liu et al., arXiv 2201.03545), with ConvNeXt's sizes, whose token mixer is a
global-local filter. No published weights or numbers belong to it.

Legend: B batch, C channels, H W grid; `x_bhwc` is channels-last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, fx, nn
from torchvision.ops import StochasticDepth

from mmfreq.layers import GlobalFilter, GlobalLocalFilter, LayerNorm2d, Mlp
from mmfreq.layers.basic import channels_last, to_bchw, to_bhwc
from mmfreq.layers.filters import as_grid
from mmfreq.models._base import (
    STRIDES,
    UNBUILT_STAGE,
    FrequencyBackbone,
    NormedHead,
    Stage,
    StagedBackbone,
    drop_path_rates,
    init_linear,
)
from mmfreq.models.hornet import Downsampling, Stem
from mmfreq.ops import resize_tokens
from mmfreq.ops.legacy_onnx import is_legacy_export
from mmfreq.registry import MODELS


@dataclass(frozen=True)
class GFNetArch:
    """One row of the table."""

    dim: int
    depth: int


@dataclass(frozen=True)
class GFNetPyramidArch:
    """One row of the table; `layer_scale` is the initial value of every `gamma`."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    layer_scale: float


@dataclass(frozen=True)
class GFNetCNNArch:
    """One row of the table."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


ARCHS = {
    'gfnet-micro': GFNetArch(32, 5),  # not published; for tests
    'gfnet-ti': GFNetArch(256, 12),
    'gfnet-xs': GFNetArch(384, 12),
    'gfnet-s': GFNetArch(384, 19),
    'gfnet-b': GFNetArch(512, 19),
}
PYRAMID_ARCHS = {
    'gfnet-h-micro': GFNetPyramidArch((16, 24, 32, 48), (1, 1, 2, 1), 1e-3),  # not published; for tests
    'gfnet-h-ti': GFNetPyramidArch((64, 128, 256, 512), (3, 3, 10, 3), 1e-3),
    'gfnet-h-s': GFNetPyramidArch((96, 192, 384, 768), (3, 3, 10, 3), 1e-5),
    'gfnet-h-b': GFNetPyramidArch((96, 192, 384, 768), (3, 3, 27, 3), 1e-6),
}
# reconstruction: ConvNeXt's sizes, since those of the paper are not known; micro is for tests
CNN_ARCHS = {
    'gfnet-cnn-micro': GFNetCNNArch((16, 24, 32, 48), (1, 1, 2, 1)),
    'gfnet-cnn-t': GFNetCNNArch((96, 192, 384, 768), (3, 3, 9, 3)),
    'gfnet-cnn-s': GFNetCNNArch((96, 192, 384, 768), (3, 3, 27, 3)),
    'gfnet-cnn-b': GFNetCNNArch((128, 256, 512, 1024), (3, 3, 27, 3)),
    'gfnet-cnn-l': GFNetCNNArch((192, 384, 768, 1536), (3, 3, 27, 3)),
}
PATCH = 16  # of GFNet
MLP_RATIO = 4
CNN_LAYER_SCALE = 1e-6


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel, without a norm; sides are rounded down.

    Args:
        in_channels, out_channels: of the convolution.
        patch: side of a patch, in pixels of the input.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, H // patch, W // patch)`.
    """

    def __init__(self, in_channels: int, out_channels: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(self.proj(x))


class GFNetBlock(nn.Module):
    """Global filter and MLP in one residual branch (the paper's figure 1)::

        x = x + drop_path(gamma * mlp(norm2(filter(norm1(x)))))
        filter(z) = irfft2(K * rfft2(z))

    where K is stored at `grid` and resized to the map by `filter_resize`.

    Args:
        channels: C.
        grid, filter_resize, spectral: as in `GlobalFilter`.
        drop_path: probability of dropping the branch, per sample.
        layer_scale: initial value of `gamma` (pyramid); None for no `gamma` (isotropic).

    Shape:
        `(B, C, H, W)` to the same.
    """

    gamma: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        grid: int | tuple[int, int],
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        filter_resize: str = 'bicubic',
        spectral: str = 'auto',
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.filter = GlobalFilter(channels, grid, filter_resize, spectral, channels_last=True)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, MLP_RATIO * channels)
        gamma = None if layer_scale is None else nn.Parameter(torch.full((channels,), layer_scale))
        self.register_parameter('gamma', gamma)
        self.drop_path = StochasticDepth(drop_path, 'row')

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm2(self.filter(self.norm1(to_bhwc(x)))))
        return x + self.drop_path(to_bchw(y if self.gamma is None else self.gamma * y))


class GFNetCNNBlock(nn.Module):
    """`x + drop_path(gamma * mlp(filter(x)))`; the global-local filter contains the norms before and after. A reconstruction.

    Args:
        channels: C, even.
        grid, filter_resize, spectral: as in `GlobalLocalFilter`.
        drop_path: probability of dropping the branch, per sample.

    Shape:
        `(B, C, H, W)` to the same.
    """

    def __init__(self, channels: int, grid: int, drop_path: float = 0.0, filter_resize: str = 'bilinear', spectral: str = 'auto'):
        super().__init__()
        self.filter = GlobalLocalFilter(channels, grid, filter_resize, spectral)
        self.mlp = Mlp(channels, MLP_RATIO * channels)
        self.gamma = nn.Parameter(torch.full((channels,), CNN_LAYER_SCALE))
        self.drop_path = StochasticDepth(drop_path, 'row')

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(to_bhwc(self.filter(x)))
        return x + self.drop_path(to_bchw(self.gamma * y))


class Quarters(Stage):
    """All blocks of GFNet; returns the map after each quarter.

    Args:
        *blocks, with_cp, memory_efficient: as in `Stage`.
        depths: blocks of each quarter.

    Shape:
        `(B, C, H, W)` to one map of the same shape for each quarter that is built.
    """

    def __init__(self, *blocks: nn.Module, depths: tuple[int, ...], **kwargs):
        super().__init__(*blocks, **kwargs)
        self.ends = tuple(sum(depths[: i + 1]) for i in range(len(depths)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = []
        for count, block in enumerate(self, 1):
            x = self.run(block, x)
            if count in self.ends:
                outs.append(x)
        return tuple(outs)


class GFNetBase(FrequencyBackbone):
    """Base of GFNet and its pyramid: position embeddings and raw outputs.

    Attributes:
        grid: stored grid of `pos_embed`, (H, W) or the side of a square.
    """

    family = 'gfnet'
    published_resize = 'bicubic'
    stored_parameters = ('pos_embed',)
    grid: int | tuple[int, int]

    def add_pos_embed(self, channels: int) -> None:
        """Create `pos_embed` for the stored grid."""
        height, width = as_grid(self.grid)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, height * width, channels), std=0.02))

    def fit_stored(self, name: str, value: Tensor) -> Tensor:
        """Position embeddings of a file, resized to the stored grid if only the grid differs."""
        square = value.ndim == 3 and int(value.shape[1] ** 0.5) ** 2 == value.shape[1]
        if not square or value.shape[::2] != self.pos_embed.shape[::2]:
            return value  # other channels: the loader reports the mismatch
        return resize_tokens(value, as_grid(self.grid))

    def positions_for(self, size: tuple[int, int]) -> Tensor:
        """Position embeddings `(1, H W, C)` for maps of `size`."""
        return resized_positions(self.pos_embed, self.grid, size, self.filter_resize != 'none')

    def store_at(self, size: tuple[int, int]) -> None:
        """Replace the position embeddings by those that forward uses for maps of `size`."""
        self.pos_embed = nn.Parameter(self.positions_for(size).detach().clone(), requires_grad=self.pos_embed.requires_grad)
        self.grid = size

    def with_positions(self, x: Tensor) -> Tensor:
        """A map `(B, C, H, W)` plus the position embeddings of its grid."""
        size = (x.shape[2], x.shape[3])
        return x + to_bchw(self.positions_for(size).unflatten(1, size))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = self.forward_stages(x)
        return tuple(outs[i] for i in self.out_indices)


@MODELS.register_module()
class GFNet(GFNetBase):
    """GFNet backbone for dense prediction; returns the maps after its four quarters, for a neck that builds a pyramid from them.

    Args:
        arch, in_channels, out_indices, filter_resize, spectral, memory_efficient, frozen_stages, with_cp, init_cfg: as in
            `FrequencyBackbone`; a stage is a quarter of the blocks, the last one includes the remainder of the division.
        drop_path_rate: of the last block; rates rise linearly from 0. Published: 0, 0, 0.15, 0.25 for ti, xs, s, b.
        img_size: side of the square image, in pixels, at whose grid filters and position embeddings are stored; default 224. For
            maps of other sizes forward resizes them, `bicubic` as published.

    Shape:
        `(N, in_channels, H, W)`, H and W >= 32, to one raw `(N, C, H // 16, W // 16)` for each of `out_indices`. This choice of
        maps is not published: there is no reference implementation for dense prediction.
    """

    default_arch = 'gfnet-ti'
    ARCHS = ARCHS

    def build(self, drop_path_rate: float) -> None:
        dim, depth = self.arch.dim, self.arch.depth
        if depth < self.num_stages:
            raise ValueError(f'GFNet needs at least 4 blocks, one for each of its four quarters, got depth={depth}')
        self.grid = self.img_size // PATCH
        self.channels = (dim,) * self.num_stages
        self.strides = (PATCH,) * self.num_stages
        quarter = depth // self.num_stages
        self.arch_depths = (quarter, quarter, quarter, depth - 3 * quarter)
        self.add_pos_embed(dim)
        self.patch_embed = PatchEmbed(self.in_channels, dim, PATCH)
        (rates,) = drop_path_rates(drop_path_rate, (depth,))
        built = rates[: sum(self.arch_depths[: self.built_stages])]
        blocks = (GFNetBlock(dim, self.grid, rate, None, self.filter_resize, self.spectral) for rate in built)
        self.blocks = Quarters(*blocks, depths=self.arch_depths, with_cp=self.with_cp, memory_efficient=self.memory_efficient)
        self.apply(init_linear)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        return list(self.blocks(self.with_positions(self.patch_embed(self.check_input(x)))))

    def stage_sides(self, side: int) -> tuple[int, ...]:
        return (side // PATCH,) * self.num_stages

    def drop_stages(self, keep: int) -> None:
        del self.blocks[sum(self.arch_depths[:keep]) :]
        self.built_stages = min(self.built_stages, keep)

    def unbuilt_parts(self) -> tuple[tuple[str, str], ...]:
        return tuple((rf'blocks\.{i}\.', UNBUILT_STAGE) for i in range(len(self.blocks), self.arch.depth))

    def frozen_parts(self) -> Sequence[nn.Module | nn.Parameter]:
        if self.frozen_stages < 0:
            return []
        blocks = list(self.blocks)[: sum(self.arch_depths[: self.frozen_stages + 1])]
        return [self.patch_embed, self.pos_embed, *blocks]

    def block_position(self, name: str) -> tuple[int, int] | None:
        part, *index = name.split('.')
        if part in ('patch_embed', 'pos_embed'):
            return -1, 0
        if part != 'blocks':
            return None
        stage = min(int(index[0]) // self.arch_depths[0], self.num_stages - 1)
        return stage, int(index[0]) - stage * self.arch_depths[0]


@MODELS.register_module()
class GFNetPyramid(GFNetBase):
    """GFNet-H backbone for dense prediction.

    Args:
        arch, in_channels, out_indices, filter_resize, spectral, memory_efficient, frozen_stages, with_cp, init_cfg: as in
            `FrequencyBackbone`.
        drop_path_rate: of the last block; rates rise linearly from 0. Published: 0.1, 0.2, 0.4 for h-ti, h-s, h-b.
        img_size: side of the square image, in pixels, at whose grids filters and position embeddings are stored; default 224 (the
            paper's ADE20K models: 512, inferred from their sizes). For maps of other sizes forward resizes them, `bicubic` as
            published.

    Shape:
        `(N, in_channels, H, W)`, H and W >= 32, to one raw `(N, C, h, w)` for each of `out_indices`; h, w = H, W over the stride,
        rounded down.
    """

    default_arch = 'gfnet-h-ti'
    ARCHS = PYRAMID_ARCHS

    def build(self, drop_path_rate: float) -> None:
        arch = self.arch
        self.grid = self.img_size // STRIDES[0]
        self.channels = arch.dims
        self.strides = STRIDES
        self.arch_depths = arch.depths
        self.add_pos_embed(arch.dims[0])
        built = arch.dims[: self.built_stages]
        self.patch_embed = nn.ModuleList([PatchEmbed(self.in_channels, built[0], STRIDES[0])])
        self.patch_embed.extend(PatchEmbed(a, b, 2) for a, b in pairwise(built))
        shared = dict(layer_scale=arch.layer_scale, filter_resize=self.filter_resize, spectral=self.spectral)
        self.blocks = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path_rate, arch.depths)[: self.built_stages]):
            grid = self.img_size // STRIDES[i]
            self.blocks.append(self.stage(GFNetBlock(arch.dims[i], grid, rate, **shared) for rate in rates))
        self.apply(init_linear)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        x = self.check_input(x)
        outs = []
        for i, (embed, stage) in enumerate(zip(self.patch_embed, self.blocks)):
            x = self.with_positions(embed(x)) if i == 0 else embed(x)
            x = stage(x)
            outs.append(x)
        return outs

    def stage_sides(self, side: int) -> tuple[int, ...]:
        return tuple(side // stride for stride in STRIDES)

    def drop_stages(self, keep: int) -> None:
        del self.patch_embed[keep:], self.blocks[keep:]
        self.built_stages = min(self.built_stages, keep)

    def unbuilt_parts(self) -> tuple[tuple[str, str], ...]:
        return tuple((rf'(patch_embed|blocks)\.{i}\.', UNBUILT_STAGE) for i in range(self.built_stages, self.num_stages))

    def frozen_parts(self) -> Sequence[nn.Module | nn.Parameter]:
        frozen = range(min(self.frozen_stages + 1, self.built_stages))
        return [m for i in frozen for m in (self.patch_embed[i], self.blocks[i])] + [self.pos_embed] * (len(frozen) > 0)

    def block_position(self, name: str) -> tuple[int, int] | None:
        part, *index = name.split('.')
        if part == 'pos_embed':
            return -1, 0
        if part == 'patch_embed':
            return (int(index[0]), 0) if int(index[0]) else (-1, 0)
        return (int(index[0]), int(index[1])) if part == 'blocks' else None


@MODELS.register_module()
class GFNetCNN(StagedBackbone):
    """A reconstruction of the CNN-style GFNet (see the module docstring); there are no weights and no published results.

    Args:
        arch, in_channels, out_indices, filter_resize, spectral, memory_efficient, frozen_stages, with_cp, init_cfg: as in
            `FrequencyBackbone`.
        drop_path_rate: of the last block; rates rise linearly from 0.
        img_size: side of the square image, in pixels, at whose grids the filters are stored; default 224. For maps of other sizes
            forward resizes them, `bilinear` as in the authors' answer.

    Shape:
        `(N, in_channels, H, W)`, H and W >= 32, to one `(N, C, h, w)` for each of `out_indices`, normed per stage; h, w = H, W
        over the stride, rounded down.
    """

    family = 'gfnet'
    default_arch = 'gfnet-cnn-t'
    published_resize = 'bilinear'
    ARCHS = CNN_ARCHS

    def build(self, drop_path_rate: float) -> None:
        arch = self.arch
        self.channels = arch.dims
        self.strides = STRIDES
        self.arch_depths = arch.depths
        built = arch.dims[: self.built_stages]
        self.downsample_layers = nn.ModuleList([Stem(self.in_channels, built[0])])
        self.downsample_layers.extend(Downsampling(a, b) for a, b in pairwise(built))
        shared = dict(filter_resize=self.filter_resize, spectral=self.spectral)
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path_rate, arch.depths)[: self.built_stages]):
            grid = self.img_size // STRIDES[i]
            self.stages.append(self.stage(GFNetCNNBlock(arch.dims[i], grid, rate, **shared) for rate in rates))
        for i in self.out_indices:
            self.add_module(f'norm{i}', LayerNorm2d(arch.dims[i]))
        self.apply(init_linear)


class GFNetHead(NormedHead):
    """`head(mean of norm(x) over the map)`: the norm is before the mean."""

    def final_features(self, x: Tensor) -> Tensor:
        return to_bchw(self.norm(to_bhwc(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean((-2, -1))
        return pooled if pre_logits else self.head(pooled)


class GFNetClassifier(GFNetHead, GFNet):
    """Published ImageNet classifier, isotropic; arguments as in `NormedHead`."""


class GFNetPyramidClassifier(GFNetHead, GFNetPyramid):
    """Published ImageNet classifier, hierarchical; arguments as in `NormedHead`."""


class GFNetCNNClassifier(NormedHead, GFNetCNN):
    """Classifier of the reconstruction, as in ConvNeXt; arguments as in `NormedHead`."""


def resized_positions(tokens: Tensor, grid: int | tuple[int, int], size: tuple[int, int], may_resize: bool) -> Tensor:
    """Position embeddings `(1, H W, C)` for maps of `size` from those stored for `grid`."""
    height, width = as_grid(grid)
    if (height, width) == size and not (may_resize and height == width and is_legacy_export()):
        return tokens
    if not may_resize:
        raise ValueError(f"with filter_resize='none' position embeddings fit maps of {as_grid(grid)} only, got {size}")
    return resize_tokens(tokens, size)


# torch.fx cannot trace conditions on a tensor's size: this function stays one node of a graph
fx.wrap('resized_positions')

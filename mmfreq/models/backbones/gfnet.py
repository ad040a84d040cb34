"""GFNet: an isotropic transformer whose token mixer is a global filter; and what it shares with its pyramid (`gfnet_pyramid`).

Paper: Rao et al., "Global Filter Networks for Image Classification", NeurIPS 2021, arXiv 2107.00645. Published code:
raoyongming/GFNet (MIT), classifiers at 224x224 alone. Names, layouts and numbers are the published ones; the code is ours. Ours
differs in: any image size is taken. Filters (bicubic, align_corners=True) and position embeddings (bicubic, align_corners=False)
are resized by the rule that the published code has for fine-tuning at another resolution: when a file is loaded, and again in
forward for maps of another size.

Legend: B batch, C channels, H W grid; maps are channels-last inside.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mmfreq.layers import GlobalFilter, Mlp
from mmfreq.layers.eval_cache import CachingModule, EvalCache
from mmfreq.layers.fused import fusable, mlp_residual, patches
from mmfreq.layers.layout import to_bchw, to_bhwc
from mmfreq.layers.stored_filter import as_grid
from mmfreq.models.backbones.base import FrequencyBackbone, drop_path_rates
from mmfreq.ops import resize_tokens
from mmfreq.registry import MODELS


@dataclass(frozen=True)
class GFNetArch:
    """One row of the table."""

    dim: int
    depth: int


ARCHS = {
    'gfnet-micro': GFNetArch(32, 5),  # ours, for tests
    'gfnet-ti': GFNetArch(256, 12),
    'gfnet-xs': GFNetArch(384, 12),
    'gfnet-s': GFNetArch(384, 19),
    'gfnet-b': GFNetArch(512, 19),
}
PATCH = 16
MLP_RATIO = 4


class PatchEmbed(nn.Module):
    """Patches through one convolution, without a norm; sides are rounded down.

    Args:
        in_channels, out_channels: of the convolution.
        patch: side of a patch, in pixels of the map before.

    Shape:
        `(B, in_channels, H, W)` to `(B, H // patch, W // patch, out_channels)`.
    """

    def __init__(self, in_channels: int, out_channels: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return patches(self.proj, to_bhwc(x))


class GFNetBlock(CachingModule):
    """Norm, global filter, norm, MLP; one residual around all of them.

    Args:
        channels: C.
        grid, filter_resize, spectral: as in `GlobalFilter`.
        drop_path: probability of dropping the branch, per sample.
        layer_scale: initial value of `gamma` after the MLP (pyramid); None for no `gamma` (isotropic).

    Shape:
        `(B, H, W, C)` to the same.
    """

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
        self._weights = EvalCache()

    def forward(self, x: Tensor) -> Tensor:
        y = self.filter(self.norm1(x))
        if fusable(self.mlp):
            mlp = (self.mlp.fc1, self.mlp.act, self.mlp.fc2)
            return mlp_residual(x, y, self.norm2, *mlp, self.gamma, self.drop_path, self._weights)
        y = self.mlp(self.norm2(y))
        return x + self.drop_path(y if self.gamma is None else self.gamma * y)


class GFNetBase(FrequencyBackbone):
    """What GFNet and its pyramid share: position embeddings, raw outputs, and the names that say where a parameter belongs.

    Attributes:
        grid: that `pos_embed` is stored at, the side of a square one or (H, W).
    """

    family = 'gfnet'
    published_resize = 'bicubic'
    stored_parameters = ('pos_embed',)
    grid: int | tuple[int, int]

    def add_pos_embed(self, channels: int) -> None:
        """`pos_embed` for the stored grid."""
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, self.grid**2, channels), std=0.02))

    def fit_stored(self, name: str, value: Tensor) -> Tensor:
        """Position embeddings of a file, resized to the stored grid by the rule for fine-tuning."""
        square = value.ndim == 3 and int(value.shape[1] ** 0.5) ** 2 == value.shape[1]
        if not square or value.shape[::2] != self.pos_embed.shape[::2]:
            return value  # not a matter of the grid: the loader reports it
        return resize_tokens(value, as_grid(self.grid))

    def positions_for(self, size: tuple[int, int]) -> Tensor:
        """Position embeddings `(1, H W, C)` for maps of `size`."""
        return self.pos_embed if as_grid(self.grid) == size else resize_tokens(self.pos_embed, size)

    def store_at(self, size: tuple[int, int]) -> None:
        """Bring the position embeddings to another grid for good, as forward would for maps of `size`."""
        self.pos_embed = nn.Parameter(self.positions_for(size).detach().clone(), requires_grad=self.pos_embed.requires_grad)
        self.grid = size

    def with_positions(self, x: Tensor) -> Tensor:
        """A map `(B, H, W, C)` plus the position embeddings of its grid."""
        size = tuple(x.shape[1:3])
        return x + self.positions_for(size).unflatten(1, size)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = self.forward_stages(x)
        return tuple(outs[i] for i in self.out_indices)

    def unbuilt_blocks(self, index: str) -> tuple[tuple[str, str], ...]:
        return ((rf'blocks\.({index})\.', 'a block after the last stage that this model returns'),) if index else ()


@MODELS.register_module()
class GFNet(GFNetBase):
    """GFNet backbone for dense prediction: the maps after its four quarters, for a neck that makes a pyramid of them.

    Args:
        arch, in_channels, out_indices, filter_resize, spectral, frozen_stages, with_cp, init_cfg: as in `FrequencyBackbone`; a
            stage is a quarter of the blocks (the last has what division leaves over).
        drop_path_rate: of the last block; rates rise linearly from 0. Published: 0, 0, 0.15, 0.25 for ti, xs, s, b.
        img_size: square image size, in pixels, at whose grid filters and position embeddings are stored; default 224. Others are
            resized as the module docstring says.

    Shape:
        `(N, in_channels, H, W)`, H and W >= 32, to one raw `(N, C, H // 16, W // 16)` for each of `out_indices`. No dense code of
        the authors exists; this choice of maps is ours.
    """

    default_arch = 'gfnet-ti'
    ARCHS = ARCHS

    def build(self, drop_path_rate: float) -> None:
        dim, depth = self.arch.dim, self.arch.depth
        if depth < self.num_stages:
            raise ValueError(f'GFNet returns the maps after its four quarters and needs at least 4 blocks, got depth={depth}')
        self.grid = self.img_size // PATCH
        self.channels = (dim,) * self.num_stages
        self.strides = (PATCH,) * self.num_stages
        quarter = depth // self.num_stages
        self.arch_depths = (quarter, quarter, quarter, depth - 3 * quarter)
        self.add_pos_embed(dim)
        self.patch_embed = PatchEmbed(self.in_channels, dim, PATCH)
        (rates,) = drop_path_rates(drop_path_rate, (depth,))
        shared = dict(filter_resize=self.filter_resize, spectral=self.spectral)
        built = sum(self.arch_depths[: self.built_stages])
        self.blocks = nn.ModuleList(GFNetBlock(dim, self.grid, rate, **shared) for rate in rates[:built])
        self.apply(init_linear)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        x = self.with_positions(self.patch_embed(x))
        outs = []
        blocks = iter(self.blocks)
        for depth in self.arch_depths[: self.built_stages]:
            for _ in range(depth):
                x = self.run_block(next(blocks), x)
            outs.append(to_bchw(x))
        return outs

    def stage_sides(self, side: int) -> tuple[int, ...]:
        return (side // PATCH,) * self.num_stages

    def drop_stages(self, keep: int) -> None:
        del self.blocks[sum(self.arch_depths[:keep]) :]
        self.built_stages = min(self.built_stages, keep)

    def unbuilt_parts(self) -> tuple[tuple[str, str], ...]:
        return self.unbuilt_blocks('|'.join(str(i) for i in range(len(self.blocks), self.arch.depth)))

    def frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        if self.frozen_stages < 0:
            return []
        blocks = self.blocks[: sum(self.arch_depths[: self.frozen_stages + 1])]
        return [self.patch_embed, self.pos_embed, *blocks]

    def block_position(self, name: str) -> tuple[int, int] | None:
        part, *index = name.split('.')
        if part in ('patch_embed', 'pos_embed'):
            return -1, 0
        if part != 'blocks':
            return None
        stage = min(int(index[0]) // self.arch_depths[0], self.num_stages - 1)
        return stage, int(index[0]) - stage * self.arch_depths[0]


def init_linear(module: nn.Module) -> None:
    """The published init: linear layers truncated normal 0.02, biases 0; convolutions as PyTorch has them."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)

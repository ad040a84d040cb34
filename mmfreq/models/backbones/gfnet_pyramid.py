"""GFNet-H: the four-stage pyramid of global filters.

Paper, published code and what differs: as in `gfnet`. There is no norm between stages and none in the downsampling.

Legend: B batch, C channels, H W grid; maps are channels-last inside.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from mmfreq.layers.layout import to_bchw
from mmfreq.models.backbones.base import drop_path_rates
from mmfreq.models.backbones.gfnet import GFNetBase, GFNetBlock, PatchEmbed, init_linear
from mmfreq.models.backbones.staged import STRIDES
from mmfreq.registry import MODELS


@dataclass(frozen=True)
class GFNetPyramidArch:
    """One row of the table; `layer_scale` is the initial value of every `gamma`."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    layer_scale: float


ARCHS = {
    'gfnet-h-micro': GFNetPyramidArch((16, 24, 32, 48), (1, 1, 2, 1), 1e-3),  # ours, for tests
    'gfnet-h-ti': GFNetPyramidArch((64, 128, 256, 512), (3, 3, 10, 3), 1e-3),
    'gfnet-h-s': GFNetPyramidArch((96, 192, 384, 768), (3, 3, 10, 3), 1e-5),
    'gfnet-h-b': GFNetPyramidArch((96, 192, 384, 768), (3, 3, 27, 3), 1e-6),
}


@MODELS.register_module()
class GFNetPyramid(GFNetBase):
    """GFNet-H backbone for dense prediction.

    Args:
        arch, in_channels, out_indices, filter_resize, spectral, frozen_stages, with_cp, init_cfg: as in `FrequencyBackbone`.
        drop_path_rate: of the last block; rates rise linearly from 0. Published: 0.1, 0.2, 0.4 for h-ti, h-s, h-b.
        img_size: square image size, in pixels, at whose grids filters and position embeddings are stored; default 224 (the paper's
            ADE20K models: 512, inferred from their sizes). Others are resized as in `gfnet`'s docstring.

    Shape:
        `(N, in_channels, H, W)`, H and W >= 32, to one raw `(N, C, h, w)` for each of `out_indices`; h, w = H, W over the stride,
        rounded down.
    """

    default_arch = 'gfnet-h-ti'
    ARCHS = ARCHS

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
            self.blocks.append(nn.ModuleList(GFNetBlock(arch.dims[i], grid, rate, **shared) for rate in rates))
        self.apply(init_linear)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        outs = []
        for i, (embed, blocks) in enumerate(zip(self.patch_embed, self.blocks)):
            x_bhwc = embed(x)
            if i == 0:
                x_bhwc = self.with_positions(x_bhwc)
            for block in blocks:
                x_bhwc = self.run_block(block, x_bhwc)
            x = to_bchw(x_bhwc)
            outs.append(x)
        return outs

    def stage_sides(self, side: int) -> tuple[int, ...]:
        return tuple(side // stride for stride in STRIDES)

    def drop_stages(self, keep: int) -> None:
        del self.patch_embed[keep:], self.blocks[keep:]
        self.built_stages = min(self.built_stages, keep)

    def unbuilt_parts(self) -> tuple[tuple[str, str], ...]:
        parts = (rf'(patch_embed|blocks)\.{i}\.' for i in range(self.built_stages, self.num_stages))
        return tuple((part, 'a stage after the last one that this model returns') for part in parts)

    def frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        frozen = range(min(self.frozen_stages + 1, self.built_stages))
        return [m for i in frozen for m in (self.patch_embed[i], self.blocks[i])] + [self.pos_embed] * (len(frozen) > 0)

    def block_position(self, name: str) -> tuple[int, int] | None:
        part, *index = name.split('.')
        if part == 'pos_embed':
            return -1, 0
        if part == 'patch_embed':
            return (int(index[0]), 0) if int(index[0]) else (-1, 0)
        return (int(index[0]), int(index[1])) if part == 'blocks' else None

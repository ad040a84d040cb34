"""GFNet and GFNet-H as published (arXiv 2107.00645): tokens `(B, N, C)`, seen as a map `(B, H, W, C)` where the filter needs it.

The published code is a classifier of square images of one size. Here the model takes any image: filters and position embeddings of
another grid are resized in forward, by the published rule for fine-tuning at another size. As in mmfreq, the outputs are the tokens
after each stage (or quarter of the blocks), without the final norm.

Legend: B batch, N = H W tokens, C channels, H W grid, F = W // 2 + 1.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmfreq.models.gfnet import GFNetArch, GFNetPyramidArch

from .layers import Mlp, filtered, resized, small_normal

Size = tuple[int, int]


class GlobalFilter(nn.Module):
    """One filter per channel."""

    def __init__(self, channels: int, grid: int):
        super().__init__()
        self.complex_weight = small_normal(grid, grid // 2 + 1, channels, 2)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        x = tokens.reshape(tokens.shape[0], *size, tokens.shape[2])
        weight = self.complex_weight
        if weight.shape[:2] != (size[0], size[1] // 2 + 1):
            weight = resized(weight, size)
        return filtered(x, weight, (1, 2)).reshape(tokens.shape)


class Block(nn.Module):
    """Norm, filter, norm, MLP, in the pyramid a factor `gamma` per channel; one shortcut around all."""

    def __init__(self, channels: int, grid: int, layer_scale: float | None = None):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.filter = GlobalFilter(channels, grid)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, 4 * channels, channels, nn.GELU(), bias=True)
        self.gamma = None if layer_scale is None else nn.Parameter(layer_scale * torch.ones(channels))

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        y = self.norm1(tokens)
        y = self.filter(y, size)
        y = self.norm2(y)
        y = self.mlp(y)
        if self.gamma is not None:
            y = self.gamma * y
        return tokens + y


class Patches(nn.Module):
    """Convolution over non-overlapping patches: NCHW to tokens and their grid."""

    def __init__(self, in_channels: int, channels: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, patch, stride=patch)

    def forward(self, x: Tensor) -> tuple[Tensor, Size]:
        x = self.proj(x)
        return x.flatten(2).transpose(1, 2), tuple(x.shape[2:])


class GFNet(nn.Module):
    """Isotropic backbone.

    Args:
        arch: a record of `mmfreq.models.gfnet.ARCHS`.
        img_size: square image size whose grid filters and position embeddings are stored at.
        in_channels: channels of the image.
    """

    def __init__(self, arch: GFNetArch, img_size: int, in_channels: int = 3):
        super().__init__()
        grid = img_size // 16
        self.pos_embed = small_normal(1, grid * grid, arch.dim)
        self.patch_embed = Patches(in_channels, arch.dim, 16)
        self.blocks = nn.ModuleList(Block(arch.dim, grid) for _ in range(arch.depth))
        quarter = arch.depth // 4
        self.last_blocks = (quarter - 1, 2 * quarter - 1, 3 * quarter - 1, arch.depth - 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        tokens, size = self.patch_embed(x)
        tokens = tokens + positions(self.pos_embed, size)
        outs = []
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, size)
            if i in self.last_blocks:
                outs.append(to_map(tokens, size))
        return tuple(outs)


class GFNetPyramid(nn.Module):
    """Hierarchical backbone; no norm between stages.

    Args:
        arch: a record of `mmfreq.models.gfnet.ARCHS`.
        img_size: square image size whose grids filters and position embeddings are stored at.
        in_channels: channels of the image.
    """

    def __init__(self, arch: GFNetPyramidArch, img_size: int, in_channels: int = 3):
        super().__init__()
        self.pos_embed = small_normal(1, (img_size // 4) ** 2, arch.dims[0])
        self.patch_embed = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for i, (before, dim) in enumerate(zip((in_channels, *arch.dims), arch.dims)):
            self.patch_embed.append(Patches(before, dim, 2 if i else 4))
            grid = img_size // 2 ** (i + 2)
            self.blocks.append(nn.ModuleList(Block(dim, grid, arch.layer_scale) for _ in range(arch.depths[i])))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = []
        for i in range(4):
            tokens, size = self.patch_embed[i](x)
            if i == 0:
                tokens = tokens + positions(self.pos_embed, size)
            for block in self.blocks[i]:
                tokens = block(tokens, size)
            x = to_map(tokens, size)
            outs.append(x)
        return tuple(outs)


def to_map(tokens: Tensor, size: Size) -> Tensor:
    """`(B, N, C)` to `(B, C, H, W)`."""
    return tokens.reshape(tokens.shape[0], *size, tokens.shape[2]).permute(0, 3, 1, 2)


def positions(pos_embed: Tensor, size: Size) -> Tensor:
    """Position embeddings of a square grid as `(1, H W, C)` of another: bicubic, corners not aligned."""
    side = int(pos_embed.shape[1] ** 0.5)
    if (side, side) == size:
        return pos_embed
    image = pos_embed.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    image = interpolate(image, size=size, mode='bicubic', align_corners=False)
    return image.permute(0, 2, 3, 1).flatten(1, 2)

"""DFFormer, CDFFormer, GFFormer and the AFNO ablation as published (arXiv 2303.03932): maps are channels-last inside.

Legend: B batch, C channels, H W grid.
"""

import torch
from torch import Tensor, nn

from mmfreq.models.dfformer import DFFormerArch

from .dfformer_mixers import Mixer, make_mixer
from .layers import Mlp, StarReLU

ACTIVATIONS = {'star_relu': StarReLU, 'gelu': nn.GELU, 'relu': nn.ReLU}


class LayerNormGeneral(nn.Module):
    """Layer norm over the last axis, without a bias, written out."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        variance = centered.pow(2).mean(-1, keepdim=True)
        normed = centered / torch.sqrt(variance + 1e-6)
        return normed * self.weight


class Scale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class MetaFormerBlock(nn.Module):
    """Token mixer, then MLP, each with a norm before; in the last two stages the shortcuts are scaled."""

    def __init__(self, channels: int, mixer: Mixer, act: type[nn.Module], scaled: bool):
        super().__init__()
        self.norm1 = LayerNormGeneral(channels)
        self.token_mixer = mixer
        self.res_scale1 = Scale(channels) if scaled else nn.Identity()
        self.norm2 = LayerNormGeneral(channels)
        self.mlp = Mlp(channels, 4 * channels, channels, act(), bias=False)
        self.res_scale2 = Scale(channels) if scaled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.res_scale1(x) + self.token_mixer(self.norm1(x))
        return self.res_scale2(x) + self.mlp(self.norm2(x))


class Downsampling(nn.Module):
    """NCHW convolution. The stem takes an image and normalizes its output; the others normalize channels-last maps, their input."""

    def __init__(self, in_channels: int, channels: int, stem: bool):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, *((7, 4, 2) if stem else (3, 2, 1)))
        self.post_norm = LayerNormGeneral(channels) if stem else nn.Identity()
        self.pre_norm = nn.Identity() if stem else LayerNormGeneral(in_channels)
        self.stem = stem

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_norm(x)
        if not self.stem:
            x = x.permute(0, 3, 1, 2)
        return self.post_norm(self.conv(x).permute(0, 2, 3, 1))


class DFFormer(nn.Module):
    """Dense backbone.

    Args:
        arch: a record of `mmfreq.models.dfformer.ARCHS`.
        img_size: square image size whose grids the filters are stored at.
        in_channels: channels of the image.
    """

    def __init__(self, arch: DFFormerArch, img_size: int, in_channels: int = 3):
        super().__init__()
        act = ACTIVATIONS[arch.act]
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i, (before, dim) in enumerate(zip((in_channels, *arch.dims), arch.dims)):
            self.downsample_layers.append(Downsampling(before, dim, stem=i == 0))
            mixers = [make_mixer(arch, arch.mixers[i], dim, act, img_size // 2 ** (i + 2)) for _ in range(arch.depths[i])]
            self.stages.append(nn.Sequential(*(MetaFormerBlock(dim, mixer, act, scaled=i >= 2) for mixer in mixers)))
            self.add_module(f'norm{i}', nn.LayerNorm(dim, eps=1e-6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = []
        for i in range(4):
            x = self.downsample_layers[i](x)
            x = self.stages[i](x)
            outs.append(getattr(self, f'norm{i}')(x).permute(0, 3, 1, 2))
        return tuple(outs)

"""GFNet-CNN: OUR RECONSTRUCTION of the hierarchical models of the TPAMI version of GFNet, from its abstract alone.

Paper: Rao et al., "GFNet: Global Filter Networks for Visual Recognition", IEEE TPAMI 45(9), 2023. Its code, sizes and weights were
never released. The abstract speaks of models that inherit designs of CNNs; the authors' answer in issue 16 of raoyongming/GFNet
shows a layer that filters half of the channels. What we make of that is a ConvNeXt-like pyramid (Liu et al., arXiv 2201.03545)
whose token mixer is a global filter next to a local convolution, with ConvNeXt's sizes. It is not a model of the authors, loads no
weights of theirs, and no published number belongs to it.

Legend: B batch, C channels, H W grid; `x_bhwc` is channels-last.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mmfreq.layers import GlobalLocalFilter, LayerNorm2d, Mlp
from mmfreq.layers.eval_cache import CachingModule, EvalCache
from mmfreq.layers.fused import fusable, mlp_residual
from mmfreq.layers.layout import to_bchw, to_bhwc
from mmfreq.models.backbones.base import drop_path_rates
from mmfreq.models.backbones.hornet import Downsampling, Stem, init_linear
from mmfreq.models.backbones.staged import STRIDES, StagedBackbone
from mmfreq.registry import MODELS


@dataclass(frozen=True)
class GFNetCNNArch:
    """One row of the table."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


# our reconstruction: the sizes are ConvNeXt's, those of the paper are not known; micro is for tests
ARCHS = {
    'gfnet-cnn-micro': GFNetCNNArch((16, 24, 32, 48), (1, 1, 2, 1)),
    'gfnet-cnn-t': GFNetCNNArch((96, 192, 384, 768), (3, 3, 9, 3)),
    'gfnet-cnn-s': GFNetCNNArch((96, 192, 384, 768), (3, 3, 27, 3)),
    'gfnet-cnn-b': GFNetCNNArch((128, 256, 512, 1024), (3, 3, 27, 3)),
    'gfnet-cnn-l': GFNetCNNArch((192, 384, 768, 1536), (3, 3, 27, 3)),
}
LAYER_SCALE_INIT = 1e-6
MLP_RATIO = 4


class GFNetCNNBlock(CachingModule):
    """Our reconstruction: global-local filter (which norms before and after), channels-last MLP, layer scale; one residual.

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
        self.gamma = nn.Parameter(torch.full((channels,), LAYER_SCALE_INIT))
        self.drop_path = StochasticDepth(drop_path, 'row')
        self._weights = EvalCache()

    def forward(self, x: Tensor) -> Tensor:
        y_bhwc = to_bhwc(self.filter(x))
        if not fusable(self.mlp):
            return to_bchw(to_bhwc(x) + self.drop_path(self.gamma * self.mlp(y_bhwc)))
        mlp = (self.mlp.fc1, self.mlp.act, self.mlp.fc2)
        return to_bchw(mlp_residual(to_bhwc(x), y_bhwc, None, *mlp, self.gamma, self.drop_path, self._weights))


@MODELS.register_module()
class GFNetCNN(StagedBackbone):
    """Our reconstruction of the CNN-style GFNet (see the module docstring); no weights and no results of it exist.

    Args:
        arch, in_channels, out_indices, filter_resize, spectral, frozen_stages, with_cp, init_cfg: as in `FrequencyBackbone`.
        drop_path_rate: of the last block; rates rise linearly from 0.
        img_size: square image size, in pixels, at whose grids the filters are stored; default 224. Maps of other sizes resize the
            filter in forward: bilinear, as the authors' answer has it.

    Shape:
        `(N, in_channels, H, W)`, H and W >= 32, to one `(N, C, h, w)` for each of `out_indices`, normed per stage; h, w = H, W
        over the stride, rounded down.
    """

    family = 'gfnet'
    default_arch = 'gfnet-cnn-t'
    published_resize = 'bilinear'
    ARCHS = ARCHS

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
            self.stages.append(nn.Sequential(*(GFNetCNNBlock(arch.dims[i], grid, rate, **shared) for rate in rates)))
        for i in self.out_indices:
            self.add_module(f'norm{i}', LayerNorm2d(arch.dims[i]))
        self.apply(init_linear)

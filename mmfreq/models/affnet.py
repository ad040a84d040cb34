"""AFFNet: a MobileNet-like pyramid whose upper three stages mix tokens with adaptive frequency filters.

Paper: Huang et al., "Adaptive Frequency Filters As Efficient Global Token Mixers", ICCV 2023, arXiv 2307.14008. Reference
implementation: microsoft/TokenMixers, folder "Adaptive Frequency Filters" (MIT; files of CVNets under Apple's license). Parameter
names, layouts and numbers are the published ones. Difference: stochastic depth exists (default 0, as published).

The filters are computed from the map, for any grid: nothing is stored at a grid or resized. The activation of all layers is the
argument `act`.

Legend: B batch, C channels, H W grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torchvision.ops import StochasticDepth

from mmfreq.layers import AdaptiveFrequencyFilter, MapNorm
from mmfreq.layers.filters import check_choice
from mmfreq.models._base import (
    UNBUILT_STAGE,
    FrequencyBackbone,
    FrequencyClassifier,
    Preprocessing,
    Stage,
    channels_last_on_cpu,
    drop_path_rates,
    final_linear,
)
from mmfreq.registry import MODELS


@dataclass(frozen=True)
class AFFNetArch:
    """One row of the table."""

    channels: tuple[int, int, int, int]  # of layer_2 .. layer_5
    expand: int  # hidden over input channels of the inverted residuals outside the blocks
    depths: tuple[int, int, int] = (2, 4, 3)  # blocks of layer_3 .. layer_5
    stem: tuple[int, int] = (16, 32)  # channels of conv_1 and layer_1


ARCHS = {
    'affnet-micro': AFFNetArch((16, 16, 24, 32), 2, depths=(1, 1, 1), stem=(8, 16)),  # not published; for tests
    'affnet-et': AFFNetArch((48, 64, 104, 144), 2),
    'affnet-t': AFFNetArch((48, 96, 160, 192), 4),
    'affnet': AFFNetArch((64, 128, 256, 320), 4),
}
# output stride -> (stride, dilation) of the first convolution of layer_4 and of layer_5
OUTPUT_STRIDES = {32: ((2, 1), (2, 1)), 16: ((2, 1), (1, 1)), 8: ((1, 1), (1, 2))}
STAGE2_RESIDUALS = 3
BLOCK_EXPAND = 2
HEAD_EXPAND, MAX_HEAD = 4, 960  # of the classifier
ACTIVATIONS = {'silu': nn.SiLU, 'relu': nn.ReLU, 'gelu': nn.GELU}  # values of `act`; published: 'silu'


class ConvNormAct(nn.Module):
    """`act(norm(conv(x)))`: convolution without bias, batch norm, activation; padded so that stride 1 keeps the grid.

    Args:
        in_channels, out_channels, kernel, stride, dilation, groups: of the convolution.
        act: key of `ACTIVATIONS`, or None for no activation.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        act: str | None = 'silu',
    ):
        super().__init__()
        pad = dilation * (kernel - 1) // 2
        self.block = nn.Sequential()
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, pad, dilation, groups, bias=False)
        self.block.add_module('conv', conv)
        self.block.add_module('norm', nn.BatchNorm2d(out_channels))
        if act is not None:
            self.block.add_module('act', ACTIVATIONS[act]())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class InvertedResidual(nn.Module):
    """`red_1x1(conv_3x3(exp_1x1(x)))`, plus `x` if the shapes agree (MobileNetV2).

    A 1x1 convolution to more channels, a depth-wise 3x3, and a 1x1 without activation, each with a batch norm.

    Args:
        in_channels, out_channels: of the block.
        expand: hidden over input channels.
        stride, dilation: of the depth-wise convolution.
        act: key of `ACTIVATIONS`.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(self, in_channels: int, out_channels: int, expand: int, stride: int = 1, dilation: int = 1, act: str = 'silu'):
        super().__init__()
        hidden = in_channels * expand
        self.adds = stride == 1 and in_channels == out_channels
        self.block = nn.Sequential()
        self.block.add_module('exp_1x1', ConvNormAct(in_channels, hidden, act=act))
        self.block.add_module('conv_3x3', ConvNormAct(hidden, hidden, 3, stride, dilation, groups=hidden, act=act))
        self.block.add_module('red_1x1', ConvNormAct(hidden, out_channels, act=None))

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return x + y if self.adds else y


class AFFBlock(nn.Module):
    """Channel mixing, then token mixing, with one residual around both::

        x = x + drop_path(filter(norm2(mlp(norm1(x)))))

    `mlp` is an `InvertedResidual` and `filter` an `AdaptiveFrequencyFilter`; both also add their own input.

    Args:
        channels: C, divisible by 8.
        drop_path: probability of dropping the residual branch, per sample.
        spectral: backend of `mmfreq.ops.spectral`.
        act: key of `ACTIVATIONS`.

    Shape:
        `(B, C, H, W)` to the same.
    """

    def __init__(self, channels: int, drop_path: float = 0.0, spectral: str = 'auto', act: str = 'silu'):
        super().__init__()
        self.norm1 = MapNorm(channels)
        self.filter = AdaptiveFrequencyFilter(channels, spectral=spectral, act=act)
        self.norm2 = MapNorm(channels)
        self.mlp = InvertedResidual(channels, channels, BLOCK_EXPAND, act=act)
        self.drop_path = StochasticDepth(drop_path, 'row')

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.filter(self.norm2(self.mlp(self.norm1(x)))))


class AFFStage(nn.Module):
    """`fusion(concat(x, conv_proj(global_rep(x))))`: `AFFBlock`s and a norm, a 1x1 projection, a 1x1 fusion with the input.

    Args:
        channels: C.
        drop_paths: one rate per block.
        spectral: backend of `mmfreq.ops.spectral`.
        act: key of `ACTIVATIONS`.

    Shape:
        `(B, C, H, W)` to the same.
    """

    def __init__(self, channels: int, drop_paths: list[float], spectral: str = 'auto', act: str = 'silu'):
        super().__init__()
        self.global_rep = nn.Sequential(*(AFFBlock(channels, rate, spectral, act) for rate in drop_paths), MapNorm(channels))
        self.conv_proj = ConvNormAct(channels, channels, act=None)
        self.fusion = ConvNormAct(2 * channels, channels, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.fusion(torch.cat((x, self.conv_proj(self.global_rep(x))), 1))


@MODELS.register_module()
class AFFNet(FrequencyBackbone):
    """AFFNet backbone for dense prediction.

    Args:
        arch, in_channels, out_indices, spectral, memory_efficient, frozen_stages, with_cp, init_cfg: as in `FrequencyBackbone`.
        drop_path_rate: of the last block; rates rise linearly from 0 over the blocks. Published: none.
        img_size, filter_resize: accepted as in every family, without effect: nothing is stored at a grid.
        output_stride: of the last stage, 32, 16 or 8. With 16 the first convolution of layer_5 has stride 1; with 8 that of layer_4
            too, and that of layer_5 has dilation 2. The parameters are the same.
        act: activation of all convolutions and of the filters' masks: 'silu' (published), 'relu' or 'gelu'. A new one is added to
            `ACTIVATIONS` here, to `MASK_ACTIVATIONS` in `mmfreq.layers.filters`, and to `ACTS` in `mmfreq.speed.folded` for
            `mmfreq.optimize`, which folds complete stages with SiLU only.

    Shape:
        `(N, in_channels, H, W)`, H and W >= 32, to one raw `(N, C, h, w)` for each of `out_indices` (stage i is layer_{i + 2});
        each convolution of stride 2 rounds up.

    Raises:
        ValueError: also for another output stride or activation.
    """

    family = 'affnet'
    default_arch = 'affnet'
    published_resize = 'bilinear'  # unused
    preprocessing = Preprocessing(256, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize=288, interpolation='bilinear')
    ARCHS = ARCHS

    def build(self, drop_path_rate: float, output_stride: int = 32, act: str = 'silu') -> None:
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(f'output_stride of AFFNet must be one of {", ".join(map(str, OUTPUT_STRIDES))}, got {output_stride}')
        self.act = check_choice('act', act, tuple(ACTIVATIONS))
        arch = self.arch
        self.channels = arch.channels
        self.output_stride = output_stride
        self.strides = tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))
        self.arch_depths = (STAGE2_RESIDUALS, *arch.depths)
        self.conv_1 = ConvNormAct(self.in_channels, arch.stem[0], 3, stride=2, act=act)
        self.layer_1 = nn.Sequential(InvertedResidual(arch.stem[0], arch.stem[1], arch.expand, act=act))
        widths = (arch.stem[1], *arch.channels)
        rates = drop_path_rates(drop_path_rate, arch.depths)
        firsts = ((2, 1), (2, 1), *OUTPUT_STRIDES[output_stride])
        for i in range(self.built_stages):
            stride, dilation = firsts[i]
            parts: list[nn.Module] = [InvertedResidual(widths[i], widths[i + 1], arch.expand, stride, dilation, act)]
            if i == 0:
                parts += [InvertedResidual(widths[1], widths[1], arch.expand, act=act) for _ in range(STAGE2_RESIDUALS - 1)]
            else:
                parts.append(AFFStage(widths[i + 1], rates[i - 1], self.spectral, act))
            self.add_module(f'layer_{i + 2}', self.stage(parts))

    @property
    def stages(self) -> list[Stage]:
        """layer_2 .. layer_5, without those that are not built."""
        return [getattr(self, f'layer_{i + 2}') for i in range(self.built_stages)]

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        x = channels_last_on_cpu(self.check_input(x))
        x = self.layer_1(self.conv_1(x))
        outs = []
        for stage in self.stages:
            x = stage(x)
            outs.append(x)
        return outs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = self.forward_stages(x)
        return tuple(outs[i].contiguous() for i in self.out_indices)

    def stage_sides(self, side: int) -> tuple[int, ...]:
        halvings = 1  # conv_1
        sides = []
        for stride, _ in ((2, 1), (2, 1), *OUTPUT_STRIDES[self.output_stride]):
            halvings += stride == 2
            sides.append(-(-side // 2**halvings))
        return tuple(sides)

    def drop_stages(self, keep: int) -> None:
        for i in range(keep, self.built_stages):
            delattr(self, f'layer_{i + 2}')
        self.built_stages = min(self.built_stages, keep)

    def unbuilt_parts(self) -> tuple[tuple[str, str], ...]:
        return tuple((rf'layer_{i + 2}\.', UNBUILT_STAGE) for i in range(self.built_stages, self.num_stages))

    def frozen_parts(self) -> Sequence[nn.Module | nn.Parameter]:
        if self.frozen_stages < 0:
            return []
        return [self.conv_1, self.layer_1, *self.stages[: self.frozen_stages + 1]]

    def block_position(self, name: str) -> tuple[int, int] | None:
        part, *index = name.split('.')
        if part in ('conv_1', 'layer_1'):
            return -1, 0
        if part not in ('layer_2', 'layer_3', 'layer_4', 'layer_5'):
            return None
        stage = int(part[-1]) - 2
        if stage == 0:
            return 0, int(index[0])
        if index[0] == '0':  # the strided residual belongs to the first block
            return stage, 0
        last = self.arch_depths[stage] - 1
        return stage, min(int(index[2]), last) if index[1] == 'global_rep' else last


class AFFNetClassifier(FrequencyClassifier, AFFNet):
    """Published ImageNet classifier, `classifier(mean of conv_1x1_exp(x) over the map)`.

    Args:
        arch: as in `AFFNet`.
        num_classes: width of `classifier.fc`; 0 for no such layer.
        drop_rate: dropout before it.
        **kwargs: as in `AFFNet`, but for `out_indices`.

    Shape:
        `(N, in_channels, H, W)` to logits `(N, num_classes)`.
    """

    last_layer = 'classifier.fc'

    def __init__(self, arch: str | dict = 'affnet', num_classes: int = 1000, drop_rate: float = 0.1, **kwargs):
        super().__init__(arch, out_indices=(), **kwargs)
        self.num_classes = num_classes
        self.head_features = min(HEAD_EXPAND * self.channels[-1], MAX_HEAD)
        self.conv_1x1_exp = ConvNormAct(self.channels[-1], self.head_features, act=self.act)
        self.classifier = nn.Sequential()
        self.classifier.add_module('dropout', nn.Dropout(drop_rate))
        fc = final_linear(self.head_features, num_classes)
        self.classifier.add_module('fc', fc)
        if isinstance(fc, nn.Linear):
            nn.init.xavier_uniform_(fc.weight)
            nn.init.zeros_(fc.bias)

    def final_features(self, x: Tensor) -> Tensor:
        return self.conv_1x1_exp(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean((-2, -1))
        return self.classifier[0](pooled) if pre_logits else self.classifier(pooled)


fx.wrap('channels_last_on_cpu')

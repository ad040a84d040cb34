"""AFFNet: a MobileNet-like pyramid whose upper three stages mix tokens by adaptive frequency filters.

Paper: Huang et al., "Adaptive Frequency Filters As Efficient Global Token Mixers", ICCV 2023, arXiv 2307.14008. Published code:
microsoft/TokenMixers, folder "Adaptive Frequency Filters" (MIT; files of CVNets under Apple's licence). Names, layouts and numbers
are the published ones; the code is ours. Ours differs in: stochastic depth exists (published: none; the default is none).

Legend: B batch, C channels, H W grid.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torchvision.ops import StochasticDepth

from mmfreq.layers import AdaptiveFrequencyFilter, MapNorm
from mmfreq.models._base import (
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
    'affnet-micro': AFFNetArch((16, 16, 24, 32), 2, depths=(1, 1, 1), stem=(8, 16)),  # ours, for tests
    'affnet-et': AFFNetArch((48, 64, 104, 144), 2),
    'affnet-t': AFFNetArch((48, 96, 160, 192), 4),
    'affnet': AFFNetArch((64, 128, 256, 320), 4),
}
# output stride -> (stride, dilation) of the first convolution of layer_4 and of layer_5
OUTPUT_STRIDES = {32: ((2, 1), (2, 1)), 16: ((2, 1), (1, 1)), 8: ((1, 1), (1, 2))}
STAGE2_RESIDUALS = 3
BLOCK_EXPAND = 2
HEAD_EXPAND, WIDEST_HEAD = 4, 960  # of the classifier


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, SiLU; padded so that stride 1 keeps the grid.

    Args:
        in_channels, out_channels, kernel, stride, dilation, groups: of the convolution.
        act: with the activation.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1, act=True
    ):
        super().__init__()
        pad = dilation * (kernel - 1) // 2
        self.block = nn.Sequential()
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, pad, dilation, groups, bias=False)
        self.block.add_module('conv', conv)
        self.block.add_module('norm', nn.BatchNorm2d(out_channels))
        if act:
            self.block.add_module('act', nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class InvertedResidual(nn.Module):
    """1x1 to a wider layer, depth-wise 3x3, 1x1 back without activation; adds the input where shapes agree (MobileNetV2).

    Args:
        in_channels, out_channels, stride, dilation: of the depth-wise convolution.
        expand: hidden over input channels.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(self, in_channels: int, out_channels: int, expand: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        hidden = in_channels * expand
        self.adds = stride == 1 and in_channels == out_channels
        self.block = nn.Sequential()
        self.block.add_module('exp_1x1', ConvNormAct(in_channels, hidden))
        self.block.add_module('conv_3x3', ConvNormAct(hidden, hidden, 3, stride, dilation, groups=hidden))
        self.block.add_module('red_1x1', ConvNormAct(hidden, out_channels, act=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return x + y if self.adds else y


class AFFBlock(nn.Module):
    """Channel mixing first, token mixing second, one shortcut around both; each also adds its own normed input.

    Args:
        channels: C, divisible by 8.
        drop_path: probability of dropping the residual, per sample.
        spectral: backend of `mmfreq.ops.spectral`.

    Shape:
        `(B, C, H, W)` to the same.
    """

    def __init__(self, channels: int, drop_path: float = 0.0, spectral: str = 'auto'):
        super().__init__()
        self.norm1 = MapNorm(channels)
        self.filter = AdaptiveFrequencyFilter(channels, spectral=spectral)
        self.norm2 = MapNorm(channels)
        self.mlp = InvertedResidual(channels, channels, BLOCK_EXPAND)
        self.drop_path = StochasticDepth(drop_path, 'row')

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.filter(self.norm2(self.mlp(self.norm1(x)))))


class AFFStage(nn.Module):
    """Blocks, a norm, a 1x1 projection, and a 1x1 fusion of the stage's input (first) with it.

    Args:
        channels: C.
        drop_paths: one rate per block.
        spectral: backend of `mmfreq.ops.spectral`.

    Shape:
        `(B, C, H, W)` to the same.
    """

    def __init__(self, channels: int, drop_paths: list[float], spectral: str = 'auto'):
        super().__init__()
        self.global_rep = nn.Sequential(*(AFFBlock(channels, rate, spectral) for rate in drop_paths), MapNorm(channels))
        self.conv_proj = ConvNormAct(channels, channels, act=False)
        self.fusion = ConvNormAct(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fusion(torch.cat((x, self.conv_proj(self.global_rep(x))), 1))


@MODELS.register_module()
class AFFNet(FrequencyBackbone):
    """AFFNet backbone for dense prediction.

    Args:
        arch, in_channels, out_indices, spectral, memory_efficient, frozen_stages, with_cp, init_cfg: as in `FrequencyBackbone`.
        drop_path_rate: of the last block; rates rise linearly from 0 over the blocks. Published: none.
        img_size, filter_resize: checked as in every family, without effect: nothing is stored at a grid.
        output_stride: of the last stage, 32, 16 or 8. With 16 the first convolution of layer_5 keeps the grid; with 8 that of
            layer_4 too, and that of layer_5 has dilation 2. Weights are the same.

    Shape:
        `(N, in_channels, H, W)`, H and W >= 32, to one raw `(N, C, h, w)` for each of `out_indices` (stage i is layer_{i + 2});
        each convolution of stride 2 rounds up.

    Raises:
        ValueError: also for another output stride.
    """

    family = 'affnet'
    default_arch = 'affnet'
    published_resize = 'bilinear'  # none: the masks do not depend on the grid
    preprocessing = Preprocessing(256, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize=288, interpolation='bilinear')
    ARCHS = ARCHS

    def build(self, drop_path_rate: float, output_stride: int = 32) -> None:
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(f'output_stride of AFFNet is one of {", ".join(map(str, OUTPUT_STRIDES))}, got {output_stride}')
        arch = self.arch
        self.channels = arch.channels
        self.output_stride = output_stride
        self.strides = tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))
        self.arch_depths = (STAGE2_RESIDUALS, *arch.depths)
        self.conv_1 = ConvNormAct(self.in_channels, arch.stem[0], 3, stride=2)
        self.layer_1 = nn.Sequential(InvertedResidual(*arch.stem, arch.expand))
        widths = (arch.stem[1], *arch.channels)
        rates = drop_path_rates(drop_path_rate, arch.depths)
        firsts = ((2, 1), (2, 1), *OUTPUT_STRIDES[output_stride])
        for i in range(self.built_stages):
            stride, dilation = firsts[i]
            parts = [InvertedResidual(widths[i], widths[i + 1], arch.expand, stride, dilation)]
            if i == 0:
                parts += [InvertedResidual(widths[1], widths[1], arch.expand) for _ in range(STAGE2_RESIDUALS - 1)]
            else:
                parts.append(AFFStage(widths[i + 1], rates[i - 1], self.spectral))
            self.add_module(f'layer_{i + 2}', self.stage(parts))

    @property
    def stages(self) -> list[Stage]:
        """layer_2 .. layer_5, as far as they are built."""
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
        parts = (rf'layer_{i + 2}\.' for i in range(self.built_stages, self.num_stages))
        return tuple((part, 'a stage after the last one that this model returns') for part in parts)

    def frozen_parts(self) -> list[nn.Module]:
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
        if index[0] == '0':  # the strided residual goes with the first block
            return stage, 0
        last = self.arch_depths[stage] - 1
        return stage, min(int(index[2]), last) if index[1] == 'global_rep' else last


class AFFNetClassifier(FrequencyClassifier, AFFNet):
    """Published ImageNet classifier, names `conv_1x1_exp` and `classifier.fc` included.

    Args:
        arch: as in `AFFNet`.
        num_classes: width of `classifier.fc`; 0 for none.
        drop_rate: dropout before it.
        **kwargs: as in `AFFNet`, but for `out_indices`.

    Shape:
        `(N, in_channels, H, W)` to logits `(N, num_classes)`.
    """

    last_layer = 'classifier.fc'

    def __init__(self, arch: str | dict = 'affnet', num_classes: int = 1000, drop_rate: float = 0.1, **kwargs):
        super().__init__(arch, out_indices=(), **kwargs)
        self.num_classes = num_classes
        self.head_features = min(HEAD_EXPAND * self.channels[-1], WIDEST_HEAD)
        self.conv_1x1_exp = ConvNormAct(self.channels[-1], self.head_features)
        self.classifier = nn.Sequential()
        self.classifier.add_module('dropout', nn.Dropout(drop_rate))
        self.classifier.add_module('fc', final_linear(self.head_features, num_classes))
        if num_classes > 0:
            nn.init.xavier_uniform_(self.classifier.fc.weight)
            nn.init.zeros_(self.classifier.fc.bias)

    def final_features(self, x: Tensor) -> Tensor:
        return self.conv_1x1_exp(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean((-2, -1))
        return self.classifier.dropout(pooled) if pre_logits else self.classifier(pooled)


fx.wrap('channels_last_on_cpu')

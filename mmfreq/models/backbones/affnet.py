"""AFFNet: a MobileNet-like pyramid whose upper three stages mix tokens by adaptive frequency filters.

Paper: Huang et al., "Adaptive Frequency Filters As Efficient Global Token Mixers", ICCV 2023, arXiv 2307.14008. Published code:
microsoft/TokenMixers, folder "Adaptive Frequency Filters" (MIT; files of CVNets under Apple's licence). Names, layouts and numbers
are the published ones; the code is ours. Ours differs in: stochastic depth exists (published: none; the default is none).

Legend: B batch, C channels, H W grid.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, silu
from torchvision.ops import StochasticDepth

from mmfreq.layers import AdaptiveFrequencyFilter, MapNorm
from mmfreq.layers.eval_cache import CachingModule, EvalCache
from mmfreq.layers.fused import add_branch, fusable, in_dtype, parameters_of
from mmfreq.layers.layout import to_bchw, to_bhwc
from mmfreq.models.backbones.base import FrequencyBackbone, Preprocessing, drop_path_rates
from mmfreq.ops.fusing import no_autocast, wants_gradient, work_dtype
from mmfreq.ops.norm_act_conv import (
    BatchStatistics,
    ConvArguments,
    fold_batch_norm,
    inverted_residual,
    norm_silu_conv,
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
silu_ = partial(silu, inplace=True)


class ConvNormAct(CachingModule):
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
        self._folded = EvalCache()

    def forward(self, x: Tensor) -> Tensor:
        if not self.fusable():
            return self.block(x)
        if self.training or wants_gradient(x, *self.parameters()):
            return self.activate(self.block.norm(self.block.conv(x)))
        dtype = work_dtype(x)
        with no_autocast(x):
            return self.activate(self.block.conv._conv_forward(x.to(dtype), *self.folded(dtype)))

    def activate(self, x: Tensor) -> Tensor:
        """The activation, in place: `x` is nobody else's."""
        return silu(x, inplace=not torch.is_grad_enabled()) if hasattr(self.block, 'act') else x

    def fusable(self) -> bool:
        """Whether the parts may be computed otherwise than one after the other."""
        norm = self.block.norm
        return fusable(self.block, *self.block) and norm.track_running_stats and norm.momentum is not None

    def folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias, in `dtype`, of the convolution with the norm of eval mode in it."""
        conv, norm = self.block.conv, self.block.norm

        def fold() -> tuple[Tensor, Tensor]:
            return in_dtype(dtype, fold_batch_norm(conv.weight, (norm.weight, norm.bias), batch_statistics(norm)))

        return self._folded.get(self.training or norm.training, dtype, batch_norm_sources(self), fold)


def norm_silu_then(x: Tensor, before: ConvNormAct, after: ConvNormAct) -> Tensor:
    """The norm and activation of `before`, then the convolution of `after`."""
    norm, conv = before.block.norm, after.block.conv
    if norm.training:
        norm.num_batches_tracked.add_(1)
    arguments = ConvArguments(conv.stride, conv.padding, conv.dilation, conv.groups)
    return norm_silu_conv(x, (norm.weight, norm.bias), batch_statistics(norm), (conv.weight, arguments))


def batch_norm_sources(part: ConvNormAct) -> tuple[Tensor, ...]:
    """What the folded weights of `part` are made from."""
    conv, norm = part.block.conv, part.block.norm
    return conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var


def batch_statistics(norm: nn.BatchNorm2d) -> BatchStatistics:
    return BatchStatistics(norm.running_mean, norm.running_var, norm.training, norm.momentum, norm.eps)


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
        parts = tuple(self.block)
        if not fusable(self.block, *parts) or not all(part.fusable() for part in parts):
            y = self.block(x)
            return x + y if self.adds else y
        if any(part.block.norm.training for part in parts) or wants_gradient(x, *self.parameters()):
            return self.forward_with_gradients(x, *parts)
        dtype = work_dtype(x)
        weights = (part.folded(dtype) for part in parts)
        conv = parts[1].block.conv
        with no_autocast(x):
            y = inverted_residual(to_bhwc(x).to(dtype), *weights, conv.stride[0], conv.dilation[0], silu_, self.adds)
        return to_bchw(y)

    def forward_with_gradients(self, x: Tensor, expand: ConvNormAct, depthwise: ConvNormAct, reduce: ConvNormAct) -> Tensor:
        """The same, keeping the results of the convolutions alone."""
        y = expand.block.conv(x)
        y = norm_silu_then(y, expand, depthwise)
        y = reduce.block.norm(norm_silu_then(y, depthwise, reduce))
        return x + y if self.adds else y


class AFFBlock(nn.Module):
    """Channel mixing first, token mixing second, one shortcut around both; each also adds its own normed input.

    Args:
        channels: C, divisible by 8.
        drop_path: probability of dropping the residual, per sample.
        spectral: backend of `mmfreq.ops.fft`.

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
        return add_branch(x, self.filter(self.norm2(self.mlp(self.norm1(x)))), self.drop_path, self.filter)


class AFFStage(CachingModule):
    """Blocks, a norm, a 1x1 projection, and a 1x1 fusion of the stage's input (first) with it.

    Args:
        channels: C.
        drop_paths: one rate per block.
        spectral: backend of `mmfreq.ops.fft`.

    Shape:
        `(B, C, H, W)` to the same.
    """

    def __init__(self, channels: int, drop_paths: list[float], spectral: str = 'auto'):
        super().__init__()
        self.global_rep = nn.Sequential(*(AFFBlock(channels, rate, spectral) for rate in drop_paths), MapNorm(channels))
        self.conv_proj = ConvNormAct(channels, channels, act=False)
        self.fusion = ConvNormAct(2 * channels, channels)
        self._folded = EvalCache()

    def forward(self, x: Tensor) -> Tensor:
        y = self.global_rep(x)
        parts = (self.conv_proj, self.fusion)
        watched = not fusable(*parts) or not all(part.fusable() for part in parts)
        norms = (part.block.norm for part in parts)
        if watched or any(norm.training for norm in norms) or wants_gradient(x, y, *parameters_of(*parts)):
            return self.fusion(torch.cat((x, self.conv_proj(y)), 1))
        of_x, of_y, bias = self.folded(work_dtype(x))
        with no_autocast(x):
            fused = conv2d(x.to(of_x.dtype), of_x, bias)
            return silu_(fused.add_(conv2d(y.to(of_y.dtype), of_y)))

    def folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of `x` and of `global_rep(x)` in the fusion, and its bias: one linear map after the other is one."""

        def fold() -> tuple[Tensor, Tensor, Tensor]:
            (inner, shift), (outer, bias) = (part.folded(part.block.conv.weight.dtype) for part in (self.conv_proj, self.fusion))
            of_x, of_y = (half.flatten(1) for half in outer.chunk(2, 1))
            weights = (of_x, of_y @ inner.flatten(1))
            return in_dtype(dtype, (*(w[..., None, None] for w in weights), bias + of_y @ shift))

        sources = batch_norm_sources(self.conv_proj) + batch_norm_sources(self.fusion)
        return self._folded.get(self.training, dtype, sources, fold)


@MODELS.register_module()
class AFFNet(FrequencyBackbone):
    """AFFNet backbone for dense prediction.

    Args:
        arch, in_channels, out_indices, spectral, frozen_stages, with_cp, init_cfg: as in `FrequencyBackbone`.
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
            self.add_module(f'layer_{i + 2}', nn.Sequential(*parts))

    @property
    def stages(self) -> list[nn.Sequential]:
        """layer_2 .. layer_5, as far as they are built."""
        return [getattr(self, f'layer_{i + 2}') for i in range(self.built_stages)]

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        if x.device.type == 'cpu':
            x = x.contiguous(memory_format=torch.channels_last)  # several times faster there, the backward pass above all
        x = self.layer_1(self.conv_1(x))
        outs = []
        for stage in self.stages:
            for part in stage:
                x = self.run_block(part, x)
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

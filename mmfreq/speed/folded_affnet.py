"""Folded modules of AFFNet; see `folded.py`.

Legend: B batch, C channels, H W grid.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from mmfreq.layers import AdaptiveFrequencyFilter
from mmfreq.layers.filters import adaptive_filter
from mmfreq.models.affnet import AFFStage, ConvNormAct, InvertedResidual
from mmfreq.ops.spectral import is_traced
from mmfreq.speed.folded import ACTS, Folded, add_into, chunks, fold_scale, is_pointwise, silu_


class FoldedConv(Folded):
    """Replaces `ConvNormAct`: the batch norm is folded into the convolution."""

    def __init__(self, part: ConvNormAct):
        super().__init__()
        conv, norm = part.block.conv, part.block.norm
        self.act = getattr(part.block, 'act', None)
        self.arguments = (conv.stride, conv.padding, conv.dilation, conv.groups)
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        weight, conv_bias = fold_scale(conv.weight, conv.bias, scale)
        self.register_buffers(weight=weight, bias=bias if conv_bias is None else bias + conv_bias)

    @staticmethod
    def fits(part: ConvNormAct) -> bool:
        if list(part.block._modules) not in (['conv', 'norm'], ['conv', 'norm', 'act']):
            return False
        conv, norm = part.block.conv, part.block.norm
        plain = type(conv) is nn.Conv2d and conv.padding_mode == 'zeros' and type(norm) is nn.BatchNorm2d
        act = getattr(part.block, 'act', None)
        return plain and norm.affine and norm.running_mean is not None and (act is None or type(act) in ACTS)

    def forward(self, x: Tensor) -> Tensor:
        y = conv2d(x, self.weight, self.bias, *self.arguments)
        if type(self.act) is nn.SiLU:
            return silu_(y)
        return y if self.act is None else self.act(y)

    def extra_repr(self) -> str:
        return f'{tuple(self.weight.shape)}, folded: batch norm'


class FoldedInvertedResidual(Folded):
    """Replaces `InvertedResidual`; computed in chunks of rows, which overlap in the hidden map."""

    def __init__(self, part: InvertedResidual):
        super().__init__()
        self.adds = part.adds
        self.expand, self.depthwise, self.reduce = (FoldedConv(conv) for conv in part.block)
        self.stride, _, dilation, _ = self.depthwise.arguments
        self.stride, self.dilation = self.stride[0], dilation[0]

    @staticmethod
    def fits(part: InvertedResidual) -> bool:
        if len(part.block) != 3 or not all(type(each) is ConvNormAct and FoldedConv.fits(each) for each in part.block):
            return False
        expand, depthwise, reduce = (each.block.conv for each in part.block)
        square = depthwise.kernel_size == (3, 3) and depthwise.padding == depthwise.dilation == (depthwise.dilation[0],) * 2
        return is_pointwise(expand) and is_pointwise(reduce) and square and depthwise.stride == (depthwise.stride[0],) * 2

    def forward(self, x: Tensor) -> Tensor:
        if is_traced() or x.device.type != 'cpu':
            y = self.reduce(self.depthwise(self.expand(x)))
            return add_into(y, x) if self.adds else y
        rows = -(-x.shape[2] // self.stride)
        row_chunks = chunks(rows, self.stride * x.shape[3] * self.depthwise.weight.shape[0] * x.element_size(), x)
        if len(row_chunks) == len(x) == 1:
            return self.forward_rows(x, row_chunks[0])
        return torch.cat([torch.cat([self.forward_rows(image, at) for at in row_chunks], 2) for image in x.split(1)])

    def forward_rows(self, x: Tensor, at: slice) -> Tensor:
        """Rows `at` of the output."""
        lead = -(-self.dilation // self.stride)  # output rows that a chunk computes with padding instead of the neighboring rows
        first = max(at.start - lead, 0)
        last = min((at.stop - 1) * self.stride + self.dilation + 1, x.shape[2])
        hidden = self.depthwise(self.expand(x[:, :, first * self.stride : last]))
        y = self.reduce(hidden[:, :, at.start - first : at.stop - first])
        return add_into(y, x[:, :, at]) if self.adds else y


class FoldedAFFStage(Folded):
    """Replaces `AFFStage`: projection and fusion, two linear maps in a row, are one."""

    def __init__(self, stage: AFFStage):
        super().__init__()
        self.global_rep = stage.global_rep
        inner, outer = FoldedConv(stage.conv_proj), FoldedConv(stage.fusion)
        of_x, of_y = (half.flatten(1) for half in outer.weight.chunk(2, 1))
        self.act = outer.act
        self.register_buffers(
            of_x=of_x[..., None, None],
            of_y=(of_y @ inner.weight.flatten(1))[..., None, None],
            bias=outer.bias + of_y @ inner.bias,
        )

    @staticmethod
    def fits(stage: AFFStage) -> bool:
        parts = (stage.conv_proj, stage.fusion)
        plain = all(FoldedConv.fits(part) and is_pointwise(part.block.conv) for part in parts)
        return plain and not hasattr(stage.conv_proj.block, 'act') and type(getattr(stage.fusion.block, 'act', None)) is nn.SiLU

    def forward(self, x: Tensor) -> Tensor:
        y = add_into(conv2d(x, self.of_x, self.bias), conv2d(self.global_rep(x), self.of_y))
        return silu_(y)

    def extra_repr(self) -> str:
        return f'{self.of_x.shape[1]}, folded: batch norms, projection'


class FoldedAdaptiveFilter(Folded):
    """Replaces `AdaptiveFrequencyFilter`; computed in chunks of blocks of channels, which are independent."""

    def __init__(self, part: AdaptiveFrequencyFilter):
        super().__init__()
        self.threshold, self.spectral, self.act = part.threshold, part.spectral, part.act
        self.register_buffers(w1=part.w1, b1=part.b1, w2=part.w2, b2=part.b2)

    @staticmethod
    def fits(part: AdaptiveFrequencyFilter) -> bool:
        return not part.channels_last

    def forward(self, x: Tensor) -> Tensor:
        blocks, size = self.w1.shape[1:3]
        outs = []
        for part in chunks(blocks, 2 * x[:, :size].numel() * max(x.element_size(), 4), x):
            weights = (w[:, part] for w in (self.w1, self.b1, self.w2, self.b2))
            piece = x[:, part.start * size : part.stop * size]
            outs.append(add_into(adaptive_filter(piece, *weights, self.threshold, self.spectral, self.act), piece))
        return outs[0] if len(outs) == 1 else torch.cat(outs, 1)

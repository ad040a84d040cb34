"""Folded blocks of HorNet, GFNet and DFFormer; see `folded.py`.

Legend: B batch, C channels, H W grid, M mixed channels, N filters; `x_bhwc` is channels-last.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from mmfreq.layers import DynamicFilter, GlobalLocalFilter, GnConv, StarReLU, StoredFilter
from mmfreq.layers.basic import to_bchw, to_bhwc
from mmfreq.layers.filters import mixing_coefficients
from mmfreq.models.dfformer import MetaFormerBlock, SepConv
from mmfreq.models.gfnet import GFNetBlock
from mmfreq.models.hornet import HorNetBlock
from mmfreq.ops import apply_mixture, irfft2, rfft2
from mmfreq.ops.autocast import without_autocast
from mmfreq.ops.spectral import as_complex, is_traced, mixture, resolve_backend
from mmfreq.speed.folded import (
    Folded,
    FoldedMlp,
    add_into,
    apply_in_chunks,
    chunks,
    fold_norm,
    fold_scale,
    is_affine,
    is_pointwise,
    squared_relu_,
)


class FoldedGnConv(Folded):
    """`layer_scale * gnconv(norm(x))`; the layer scale and gnConv's `scale` are folded.

    Shape:
        `(B, H, W, C)` to the same.
    """

    def __init__(self, gnconv: GnConv, norm: nn.LayerNorm, layer_scale: Tensor | None):
        super().__init__()
        self.eps, self.dims = norm.eps, gnconv.dims
        weight, bias = fold_norm(norm, gnconv.proj_in.weight.flatten(1), gnconv.proj_in.bias)
        (w_gate, w_rest), (b_gate, b_rest) = (t.split((self.dims[0], sum(self.dims))) for t in (weight, bias))
        self.register_buffers(w_gate=w_gate, b_gate=b_gate, w_rest=w_rest, b_rest=b_rest)
        self.spatial = copy.deepcopy(gnconv.dwconv)  # a copy: another block may share it
        last = self.spatial.post_norm if isinstance(self.spatial, GlobalLocalFilter) else self.spatial
        last.weight, last.bias = (nn.Parameter(t * gnconv.scale, requires_grad=False) for t in (last.weight, last.bias))
        for i, pw in enumerate(gnconv.pws):
            self.register_buffers(**{f'w{i}': pw.weight.flatten(1), f'b{i}': pw.bias})
        w, b = fold_scale(gnconv.proj_out.weight.flatten(1), gnconv.proj_out.bias, layer_scale)
        self.register_buffers(**{f'w{len(gnconv.pws)}': w, f'b{len(gnconv.pws)}': b})

    @staticmethod
    def fits(gnconv: GnConv) -> bool:
        linear_maps = (gnconv.proj_in, *gnconv.pws, gnconv.proj_out)
        spatial = gnconv.dwconv.post_norm if isinstance(gnconv.dwconv, GlobalLocalFilter) else gnconv.dwconv
        plain = all(map(is_pointwise, linear_maps)) and all(map(is_affine, (*linear_maps, spatial)))
        return plain and gnconv.stride == (1, 1) and not any(gnconv.border) and not gnconv.channels_last

    def forward(self, x_bhwc: Tensor) -> Tensor:
        y, rest = self.project(x_bhwc.reshape(-1, x_bhwc.shape[-1]))
        mixed = to_bhwc(self.spatial(to_bchw(rest.view(*x_bhwc.shape[:-1], -1))))
        for i, part in enumerate(mixed.reshape(-1, mixed.shape[-1]).split(self.dims, -1)):
            gated = partial(linear_of_product, getattr(self, f'w{i}'), getattr(self, f'b{i}'))
            y = apply_in_chunks(gated, part.shape[-1], y, part)
        return y.view(x_bhwc.shape)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`split(proj_in(norm(x)))` of tokens: the gate and the rest."""
        slices = chunks(tokens.shape[0], self.w_rest.shape[0] * tokens.element_size(), tokens)
        outs = []
        for at in slices:
            y = layer_norm(tokens[at], self.w_gate.shape[1:], eps=self.eps)
            outs.append((linear(y, self.w_gate, self.b_gate), linear(y, self.w_rest, self.b_rest)))
        gate, rest = outs[0] if len(outs) == 1 else (torch.cat(parts) for parts in zip(*outs))
        return gate, rest

    def extra_repr(self) -> str:
        return f'dims={self.dims}, folded: norm, scale, layer scale'


def linear_of_product(weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """`W (a * b) + bias`."""
    return linear(a * b, weight, bias)


class FoldedHorNetBlock(Folded):
    """Replaces `HorNetBlock`."""

    def __init__(self, block: HorNetBlock):
        super().__init__()
        self.gnconv = FoldedGnConv(block.gnconv, block.norm1, block.gamma1)
        self.mlp = FoldedMlp(block.norm2, block.pwconv1, block.act, block.pwconv2, block.gamma2)

    @staticmethod
    def fits(block: HorNetBlock) -> bool:
        return FoldedGnConv.fits(block.gnconv)

    def forward(self, x: Tensor) -> Tensor:
        x_bhwc = to_bhwc(x)
        x_bhwc = add_into(self.gnconv(x_bhwc), x_bhwc)
        return to_bchw(self.mlp(x_bhwc, x_bhwc))


class FoldedGFNetBlock(Folded):
    """Replaces `GFNetBlock`."""

    def __init__(self, block: GFNetBlock):
        super().__init__()
        self.norm, self.filter = block.norm1, block.filter
        self.mlp = FoldedMlp(block.norm2, block.mlp.fc1, block.mlp.act, block.mlp.fc2, block.gamma)

    def forward(self, x: Tensor) -> Tensor:
        x_bhwc = to_bhwc(x)
        return to_bchw(self.mlp(self.filter(self.norm(x_bhwc)), x_bhwc))


class FoldedDynamicFilter(Folded, StoredFilter):
    """`mixer(norm(x))`; StarReLU's affine map is folded into the routing and a bias (a constant has only the zero frequency).

    Shape:
        `(B, H, W, C)` to the same.
    """

    stored_name = 'complex_weights'

    def __init__(self, mixer: DynamicFilter, norm: nn.LayerNorm):
        nn.Module.__init__(self)
        self.grid, self.filter_resize, self.spectral, self.weight_dims = mixer.grid, mixer.filter_resize, mixer.spectral, (0, 1)
        self.eps, self.num_filters, self.reweight = norm.eps, mixer.num_filters, copy.deepcopy(mixer.reweight)
        weight, bias = fold_norm(norm, self.reweight.fc1.weight, self.reweight.fc1.bias)
        self.reweight.fc1 = frozen_linear(weight, bias)
        self.act = mixer.act1
        w1, b1 = fold_norm(norm, mixer.pwconv1.weight, mixer.pwconv1.bias)
        self.register_buffers(complex_weights=mixer.stored, w1=w1, b1=b1, w2=mixer.pwconv2.weight, b2=mixer.pwconv2.bias)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        y = layer_norm(x_bhwc, self.w1.shape[1:], eps=self.eps)
        routing = mixing_coefficients(self.reweight(y.mean((1, 2))), self.num_filters)
        y = linear_to_nchw(self.w1, self.b1, y)
        filters, act, bias = self.filter_for((y.shape[2], y.shape[3])), self.act, self.b2
        if isinstance(act, StarReLU) and not torch.onnx.is_in_onnx_export():  # in a graph, 2 operators instead of 10
            # the mixture at the zero frequency, (B, M); not as a matrix-vector product, which onnxruntime 1.32 computes wrongly
            zero = (routing * filters[0, 0, :, :1].to(routing.dtype)).sum(1)
            bias = linear(act.bias * zero, self.w2, bias)
            routing, act = routing * act.scale, squared_relu_
        return linear_from_nchw(self.filtered(y, act, routing, filters), self.w2, bias)

    def filtered(self, x: Tensor, act: Callable[[Tensor], Tensor], routing: Tensor, filters: Tensor) -> Tensor:
        """Filter each channel of `act(x)` with its mixture of filters, in chunks of channels; may change `x` in place."""
        if is_traced() or resolve_backend(x, self.spectral)[0] == 'matmul':
            return apply_mixture(act(x), routing, filters, self.spectral)
        bases = filters.float().permute(2, 0, 1, 3)
        slices = chunks(x.shape[1], x.shape[0] * bases[0].numel() * 4, x)
        outs = []
        with without_autocast(x):
            for at in slices:
                spec = rfft2(act(x[:, at]).float())
                spec = spec * as_complex(mixture(routing[..., at].float(), bases))
                outs.append(irfft2(spec, (x.shape[2], x.shape[3])).to(x.dtype))
        return outs[0] if len(outs) == 1 else torch.cat(outs, 1)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, folded: norm, activation'


class FoldedSepConv(Folded):
    """`mixer(norm(x))`; `(B, H, W, C)` to the same."""

    def __init__(self, mixer: SepConv, norm: nn.LayerNorm):
        super().__init__()
        self.eps, self.act, self.dwconv, self.pwconv2 = norm.eps, mixer.act1, mixer.dwconv, mixer.pwconv2
        w1, b1 = fold_norm(norm, mixer.pwconv1.weight, mixer.pwconv1.bias)
        self.register_buffers(w1=w1, b1=b1)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        y = apply_in_chunks(self.forward_tokens, self.w1.shape[0], x_bhwc)
        return self.pwconv2(to_bhwc(self.dwconv(to_bchw(y))))

    def forward_tokens(self, x: Tensor) -> Tensor:
        y = linear(layer_norm(x, self.w1.shape[1:], eps=self.eps), self.w1, self.b1)
        if not isinstance(self.act, StarReLU):
            return self.act(y)
        return squared_relu_(y).mul_(self.act.scale).add_(self.act.bias)

    def extra_repr(self) -> str:
        return f'{self.w1.shape[1]}, folded: norm'


class FoldedMetaFormerBlock(Folded):
    """Replaces `MetaFormerBlock` with one of the token mixers in `MIXERS`."""

    MIXERS = {DynamicFilter: FoldedDynamicFilter, SepConv: FoldedSepConv}

    def __init__(self, block: MetaFormerBlock):
        super().__init__()
        folded = self.MIXERS[type(block.token_mixer)]
        self.token_mixer = folded(block.token_mixer, block.norm1)
        self.res_scale1, self.res_scale2 = block.res_scale1, block.res_scale2
        self.mlp = FoldedMlp(block.norm2, block.mlp.fc1, block.mlp.act, block.mlp.fc2)

    @staticmethod
    def fits(block: MetaFormerBlock) -> bool:
        return getattr(block.token_mixer, 'channels_last', True)

    def forward(self, x: Tensor) -> Tensor:
        x = to_bhwc(x)
        x = add_into(self.token_mixer(x), self.res_scale1(x))
        return to_bchw(self.mlp(x, self.res_scale2(x)))


def frozen_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with these weights, without gradients."""
    out = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device='meta')
    out.weight = nn.Parameter(weight.detach(), requires_grad=False)
    out.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return out


def linear_to_nchw(weight: Tensor, bias: Tensor | None, x_bhwc: Tensor) -> Tensor:
    """A linear map of the channels of a channels-last map; the result is NCHW without a transposition."""
    if torch.onnx.is_in_onnx_export():  # fewer operators
        return to_bchw(linear(x_bhwc, weight, bias))
    columns = x_bhwc.flatten(1, 2).transpose(1, 2)  # (B, C, H W), a view
    out = weight.expand(columns.shape[0], -1, -1) @ columns
    return (out if bias is None else out + bias.view(1, -1, 1)).unflatten(2, x_bhwc.shape[1:3])


def linear_from_nchw(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear map of the channels of an NCHW map; the result is channels-last. The bias is `(O)` or, per sample, `(B, O)`."""
    if torch.onnx.is_in_onnx_export():
        return linear(to_bhwc(x), weight, bias)
    out = x.flatten(2).transpose(1, 2) @ weight.t()
    return (out if bias is None else out + bias.view(-1, 1, weight.shape[0])).unflatten(1, x.shape[2:])

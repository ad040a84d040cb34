"""Blocks folded for inference: norms, layer scales and affine maps are part of the next weights, maps are computed in pieces.

A folded block is made from a block in eval mode and gives the same up to rounding. On a CPU it works on pieces of a map whose
intermediate results stay in the processor's cache; compilers and exporters get whole maps. Each class takes the block it replaces;
`fits` says whether that block still is what its class builds, so that a replaced or watched part is never bypassed.

Legend: B batch, C channels, K hidden channels, H W grid, M mixed channels, N filters; `x_bhwc` is channels-last, tokens `(T, C)`.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, layer_norm, linear, silu
from torchvision.ops import StochasticDepth

from mmfreq.layers import (
    AdaptiveFrequencyFilter,
    DynamicFilter,
    GlobalLocalFilter,
    GnConv,
    LayerNorm2d,
    Mlp,
    SquaredReLU,
    StarReLU,
    StoredFilter,
)
from mmfreq.layers.basic import squared_relu, to_bchw, to_bhwc
from mmfreq.layers.filters import adaptive_filter
from mmfreq.models.affnet import AFFStage, ConvNormAct, InvertedResidual
from mmfreq.models.dfformer import MetaFormerBlock, Scale, SepConv
from mmfreq.models.gfnet import GFNetBlock
from mmfreq.models.hornet import HorNetBlock
from mmfreq.ops import apply_mixture, irfft2, rfft2
from mmfreq.ops.resize import without_autocast
from mmfreq.ops.spectral import as_complex, is_traced, mixture, resolve_backend
from mmfreq.speed.compiling import SharedStochasticDepth

PIECE_BYTES = 8 * 2**20  # of the widest intermediate result of a piece on a CPU
REFUSED = (
    'a model made by mmfreq.optimize {}: its weights are folded into one another; do it with the model it was made from, '
    'then call mmfreq.optimize again'
)
ACTS = (nn.GELU, nn.Identity, nn.ReLU, nn.SiLU, SquaredReLU, StarReLU)
DROPS = (nn.Identity, SharedStochasticDepth, StochasticDepth)  # nothing in eval mode
SKIPS = (nn.Identity, Scale)
CALLED = None  # a part of any kind, which the folded module calls
LINEAR, NORM, CONV = (nn.Linear,), (nn.LayerNorm,), (nn.Conv2d,)
# module -> its parts with the kinds that the folded form knows; modules that are not here may have no parts
ROLES = {
    AdaptiveFrequencyFilter: {},
    AFFStage: dict(global_rep=CALLED, conv_proj=(ConvNormAct,), fusion=(ConvNormAct,)),
    ConvNormAct: dict(block=(nn.Sequential,)),
    DynamicFilter: dict(pwconv1=LINEAR, act1=ACTS, reweight=(Mlp,), pwconv2=LINEAR),
    GFNetBlock: dict(norm1=CALLED, filter=CALLED, norm2=NORM, mlp=(Mlp,), drop_path=DROPS),
    GlobalLocalFilter: dict(dw=CALLED, pre_norm=CALLED, post_norm=(LayerNorm2d,)),
    GnConv: dict(proj_in=CONV, dwconv=(nn.Conv2d, GlobalLocalFilter), proj_out=CONV, pws=(nn.ModuleList,)),
    HorNetBlock: dict(
        norm1=(LayerNorm2d,),
        gnconv=(GnConv,),
        norm2=NORM,
        pwconv1=LINEAR,
        act=ACTS,
        pwconv2=LINEAR,
        drop_path1=DROPS,
        drop_path2=DROPS,
    ),
    InvertedResidual: dict(block=(nn.Sequential,)),
    MetaFormerBlock: dict(
        norm1=NORM,
        token_mixer=(DynamicFilter, SepConv),
        drop_path1=DROPS,
        res_scale1=SKIPS,
        norm2=NORM,
        mlp=(Mlp,),
        drop_path2=DROPS,
        res_scale2=SKIPS,
    ),
    Mlp: dict(fc1=LINEAR, act=ACTS, fc2=LINEAR),
    SepConv: dict(pwconv1=LINEAR, act1=ACTS, dwconv=CALLED, pwconv2=CALLED),
}


class ForInference:
    """Mixed into modules whose weights are folded: they refuse to train and to load a state dict."""

    def train(self, mode: bool = True) -> nn.Module:
        if mode:
            raise RuntimeError(REFUSED.format('cannot be trained'))
        return super().train(False)

    def _load_from_state_dict(self, *args):
        raise RuntimeError(REFUSED.format('loads no state dict'))


class Folded(ForInference, nn.Module):
    """Base of the folded blocks, which hold the weights they were made of."""

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module whose parts have their roles can be folded."""
        return True

    def keep(self, **tensors: Tensor | None) -> None:
        """Buffers of these names."""
        for name, tensor in tensors.items():
            self.register_buffer(name, None if tensor is None else tensor.detach().contiguous())


def untouched(module: nn.Module) -> bool:
    """Whether each part is of a kind that its role allows, has plain parameters and its own forward, and is watched by nobody."""
    watched = module._forward_hooks or module._forward_pre_hooks or 'forward' in vars(module)
    if watched or any(type(p) is not nn.Parameter for p in module._parameters.values() if p is not None):
        return False
    parts, roles = module._modules, ROLES.get(type(module))
    if roles is None:
        return all(part is None or untouched(part) for part in parts.values())
    known = parts.keys() == roles.keys() and all(kinds is CALLED or type(parts[name]) in kinds for name, kinds in roles.items())
    return known and all(untouched(parts[name]) for name, kinds in roles.items() if kinds is not CALLED)


def pointwise(conv: nn.Module) -> bool:
    """Whether it is a linear map of the channels of each pixel."""
    if type(conv) is not nn.Conv2d or conv.groups != 1:
        return False
    return conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0)


def affine(module: nn.Module) -> bool:
    """Whether it has a weight and a bias."""
    return module.weight is not None and module.bias is not None


# --- the parts that several blocks share


def pieces(count: int, bytes_each: int, x: Tensor) -> list[slice]:
    """Slices that cover `count` items: on a CPU as many at a time as fit into `PIECE_BYTES`; elsewhere and for compilers one."""
    if x.device.type != 'cpu' or is_traced() or count * bytes_each <= PIECE_BYTES:
        return [slice(0, count)]
    rounds = -(-count // max(PIECE_BYTES // bytes_each, 1))
    step = -(-count // rounds)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def by_tokens(function: Callable[..., Tensor], width: int, *maps: Tensor) -> Tensor:
    """`function` of channels-last maps, token by token, in pieces; `width` is that of the widest map in between.

    Shape:
        Several `(..., C_i)` to `(..., O)`.
    """
    tokens = [x.reshape(-1, x.shape[-1]) for x in maps]
    slices = pieces(tokens[0].shape[0], width * tokens[0].element_size(), tokens[0])
    first = function(*(t[slices[0]] for t in tokens))
    if len(slices) > 1:
        out = first.new_empty(tokens[0].shape[0], first.shape[1])
        out[slices[0]] = first
        for at in slices[1:]:
            out[at] = function(*(t[at] for t in tokens))
        first = out
    return first.view(*maps[0].shape[:-1], -1)


def after_norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear map after a layer norm, for the norm without its own weight and bias."""
    if norm.bias is not None:
        shift = weight @ norm.bias
        bias = shift if bias is None else bias + shift
    return (weight if norm.weight is None else weight * norm.weight), bias


def scaled(weight: Tensor, bias: Tensor | None, scale: Tensor | float | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear map or convolution with a factor for each channel of its result."""
    if scale is None:
        return weight, bias
    factors = scale.view(-1, *[1] * (weight.ndim - 1)) if isinstance(scale, Tensor) else scale
    return weight * factors, None if bias is None else bias * scale


def after_act(act: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor | None]:
    """What remains of an activation whose affine map is in the next linear map, and weight and bias of that."""
    if not isinstance(act, StarReLU):
        return act, weight, bias
    shift = (weight * act.bias).sum(1)
    return squared_relu_, weight * act.scale, shift if bias is None else bias + shift


def squared_relu_(x: Tensor) -> Tensor:
    """`squared_relu` in the memory of `x`, where no gradient is wanted."""
    return squared_relu(x) if x.requires_grad or x.dtype == torch.float16 else x.relu_().square_()


def silu_(x: Tensor) -> Tensor:
    """`silu` in the memory of `x`, where no gradient is wanted."""
    return silu(x, inplace=not x.requires_grad)


def plus(branch: Tensor, skip: Tensor) -> Tensor:
    """Their sum, in the memory of `branch` where dtypes agree."""
    return branch.add_(skip) if branch.dtype == skip.dtype else branch + skip


class FoldedMlp(Folded):
    """`residual + scale * fc2(act(fc1(norm(x))))`."""

    def __init__(self, norm: nn.LayerNorm, fc1: nn.Linear, act: nn.Module, fc2: nn.Linear, scale: Tensor | None = None):
        super().__init__()
        self.eps = norm.eps
        w1, b1 = after_norm(norm, fc1.weight, fc1.bias)
        self.act, w2, b2 = after_act(act, fc2.weight, fc2.bias)
        w2, b2 = scaled(w2, b2, scale)
        self.keep(w1=w1, b1=b1, w2=w2, b2=b2)

    def forward(self, x_bhwc: Tensor, residual_bhwc: Tensor) -> Tensor:
        return by_tokens(self.tokens, self.w1.shape[0], x_bhwc, residual_bhwc)

    def tokens(self, x: Tensor, residual: Tensor) -> Tensor:
        hidden = linear(layer_norm(x, x.shape[-1:], eps=self.eps), self.w1, self.b1)
        return residual + linear(self.act(hidden), self.w2, self.b2)

    def extra_repr(self) -> str:
        return f'{self.w1.shape[1]}, hidden={self.w1.shape[0]}, folded: norm, activation, layer scale'


class FoldedPatches(Folded):
    """A convolution whose stride is its kernel, as a matrix product on patches; sides are rounded down. Compilers and exporters get
    the convolution.

    Shape:
        `(B, C, H, W)` to `(B, O, H // k, W // k)`, channels-last in memory.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.side = conv.kernel_size[0]
        self.keep(weight=conv.weight.permute(0, 2, 3, 1).flatten(1), bias=conv.bias)

    @staticmethod
    def fits(conv: nn.Conv2d) -> bool:
        whole = conv.kernel_size == conv.stride == (conv.kernel_size[0],) * 2 and conv.padding == (0, 0)
        return whole and conv.dilation == (1, 1) and conv.groups == 1

    def forward(self, x: Tensor) -> Tensor:
        k = self.side
        if is_traced():
            weight = to_bchw(self.weight.unflatten(1, (k, k, -1)))
            return conv2d(x, weight, self.bias, k)
        rows, columns = x.shape[2] // k, x.shape[3] // k
        patches = to_bhwc(x)[:, : rows * k, : columns * k].unflatten(1, (rows, k)).unflatten(3, (columns, k))
        return to_bchw(linear(patches.transpose(2, 3).flatten(3), self.weight, self.bias))

    def extra_repr(self) -> str:
        return f'{self.weight.shape[1] // self.side**2}, {self.weight.shape[0]}, side={self.side}'


# --- HorNet


class FoldedGnConv(Folded):
    """`layer_scale * gnconv(norm(x))`; the factor after the spatial operator and the layer scale are in the weights.

    Shape:
        `(B, H, W, C)` to the same.
    """

    def __init__(self, gnconv: GnConv, norm: nn.LayerNorm, layer_scale: Tensor | None):
        super().__init__()
        self.eps, self.dims = norm.eps, gnconv.dims
        weight, bias = after_norm(norm, gnconv.proj_in.weight.flatten(1), gnconv.proj_in.bias)
        (w_gate, w_rest), (b_gate, b_rest) = (t.split((self.dims[0], sum(self.dims))) for t in (weight, bias))
        self.keep(w_gate=w_gate, b_gate=b_gate, w_rest=w_rest, b_rest=b_rest)
        self.spatial = copy.deepcopy(gnconv.dwconv)  # which another block may have, too
        last = self.spatial.post_norm if isinstance(self.spatial, GlobalLocalFilter) else self.spatial
        last.weight, last.bias = (nn.Parameter(t * gnconv.scale, requires_grad=False) for t in (last.weight, last.bias))
        for i, pw in enumerate(gnconv.pws):
            self.keep(**{f'w{i}': pw.weight.flatten(1), f'b{i}': pw.bias})
        w, b = scaled(gnconv.proj_out.weight.flatten(1), gnconv.proj_out.bias, layer_scale)
        self.keep(**{f'w{len(gnconv.pws)}': w, f'b{len(gnconv.pws)}': b})

    @staticmethod
    def fits(gnconv: GnConv) -> bool:
        linear_maps = (gnconv.proj_in, *gnconv.pws, gnconv.proj_out)
        spatial = gnconv.dwconv.post_norm if isinstance(gnconv.dwconv, GlobalLocalFilter) else gnconv.dwconv
        plain = all(map(pointwise, linear_maps)) and all(map(affine, (*linear_maps, spatial)))
        return plain and gnconv.stride == (1, 1) and not any(gnconv.border) and not gnconv.channels_last

    def forward(self, x_bhwc: Tensor) -> Tensor:
        gate, rest = self.project(x_bhwc)
        parts = to_bhwc(self.spatial(to_bchw(rest))).split(self.dims, -1)
        y = gate
        for i, part in enumerate(parts):
            gated = partial(linear_of_product, getattr(self, f'w{i}'), getattr(self, f'b{i}'))
            y = by_tokens(gated, part.shape[-1], y, part)
        return y

    def project(self, x_bhwc: Tensor) -> tuple[Tensor, Tensor]:
        """Gate and rest, channels-last."""
        tokens = x_bhwc.reshape(-1, x_bhwc.shape[-1])
        slices = pieces(tokens.shape[0], self.w_rest.shape[0] * tokens.element_size(), tokens)
        outs = []
        for at in slices:
            y = layer_norm(tokens[at], tokens.shape[-1:], eps=self.eps)
            outs.append((linear(y, self.w_gate, self.b_gate), linear(y, self.w_rest, self.b_rest)))
        gate, rest = outs[0] if len(outs) == 1 else (torch.cat(parts) for parts in zip(*outs))
        return gate.view(*x_bhwc.shape[:-1], -1), rest.view(*x_bhwc.shape[:-1], -1)

    def extra_repr(self) -> str:
        return f'dims={self.dims}, folded: norm, scale, layer scale'


def linear_of_product(weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """A linear map of `a * b`."""
    return linear(a * b, weight, bias)


class FoldedHorNetBlock(Folded):
    """Stands for `HorNetBlock`."""

    def __init__(self, block: HorNetBlock):
        super().__init__()
        self.gnconv = FoldedGnConv(block.gnconv, block.norm1, block.gamma1)
        self.mlp = FoldedMlp(block.norm2, block.pwconv1, block.act, block.pwconv2, block.gamma2)

    @staticmethod
    def fits(block: HorNetBlock) -> bool:
        return FoldedGnConv.fits(block.gnconv)

    def forward(self, x: Tensor) -> Tensor:
        x_bhwc = to_bhwc(x)
        x_bhwc = plus(self.gnconv(x_bhwc), x_bhwc)
        return to_bchw(self.mlp(x_bhwc, x_bhwc))


# --- GFNet


class FoldedGFNetBlock(Folded):
    """Stands for `GFNetBlock`."""

    def __init__(self, block: GFNetBlock):
        super().__init__()
        self.norm, self.filter = block.norm1, block.filter
        self.mlp = FoldedMlp(block.norm2, block.mlp.fc1, block.mlp.act, block.mlp.fc2, block.gamma)

    def forward(self, x: Tensor) -> Tensor:
        x_bhwc = to_bhwc(x)
        return to_bchw(self.mlp(self.filter(self.norm(x_bhwc)), x_bhwc))


# --- DFFormer, CDFFormer


class FoldedDynamicFilter(Folded, StoredFilter):
    """`mixer(norm(x))`; the affine map of a StarReLU is in the routing and in a bias: a constant meets the zero frequency only.

    Shape:
        `(B, H, W, C)` to the same.
    """

    stored_name = 'complex_weights'

    def __init__(self, mixer: DynamicFilter, norm: nn.LayerNorm):
        nn.Module.__init__(self)
        self.grid, self.filter_resize, self.spectral, self.weight_dims = mixer.grid, mixer.filter_resize, mixer.spectral, (0, 1)
        self.eps, self.num_filters, self.reweight = norm.eps, mixer.num_filters, copy.deepcopy(mixer.reweight)
        weight, bias = after_norm(norm, self.reweight.fc1.weight, self.reweight.fc1.bias)
        self.reweight.fc1 = linear_of(weight, bias)
        self.act = mixer.act1
        w1, b1 = after_norm(norm, mixer.pwconv1.weight, mixer.pwconv1.bias)
        self.keep(complex_weights=mixer.stored, w1=w1, b1=b1, w2=mixer.pwconv2.weight, b2=mixer.pwconv2.bias)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        y = layer_norm(x_bhwc, x_bhwc.shape[-1:], eps=self.eps)
        routing = self.reweight(y.mean((1, 2))).unflatten(1, (self.num_filters, -1)).softmax(1)  # (B, N, M)
        y = rows_times(self.w1, self.b1, y)
        filters, act, bias = self.filter_for((y.shape[2], y.shape[3])), self.act, self.b2
        if isinstance(act, StarReLU):
            # the mixture at the zero frequency, (B, M); not as a product with a vector, which onnxruntime 1.32 computes wrongly
            zero = (routing * filters[0, 0, :, :1].to(routing.dtype)).sum(1)
            bias = linear(act.bias * zero, self.w2, bias)
            routing, act = routing * act.scale, squared_relu_
        return times_columns(self.filtered(y, act, routing, filters), self.w2, bias)

    def filtered(self, x: Tensor, act: Callable[[Tensor], Tensor], routing: Tensor, filters: Tensor) -> Tensor:
        """Each channel of `act(x)` through its mixture of filters, some channels at a time; may write into `x`."""
        if is_traced() or resolve_backend(x, self.spectral)[0] == 'matmul':
            return apply_mixture(act(x), routing, filters, self.spectral)
        bases = filters.float().permute(2, 0, 1, 3)
        slices = pieces(x.shape[1], x.shape[0] * bases[0].numel() * 4, x)
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
        w1, b1 = after_norm(norm, mixer.pwconv1.weight, mixer.pwconv1.bias)
        self.keep(w1=w1, b1=b1)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        y = by_tokens(self.tokens, self.w1.shape[0], x_bhwc)
        return self.pwconv2(to_bhwc(self.dwconv(to_bchw(y))))

    def tokens(self, x: Tensor) -> Tensor:
        y = linear(layer_norm(x, x.shape[-1:], eps=self.eps), self.w1, self.b1)
        if not isinstance(self.act, StarReLU):
            return self.act(y)
        return squared_relu_(y).mul_(self.act.scale).add_(self.act.bias)

    def extra_repr(self) -> str:
        return f'{self.w1.shape[1]}, folded: norm'


class FoldedMetaFormerBlock(Folded):
    """Stands for `MetaFormerBlock`; other token mixers than those of this file are called as they are."""

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
        x = plus(self.token_mixer(x), self.res_scale1(x))
        return to_bchw(self.mlp(x, self.res_scale2(x)))


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with these weights."""
    out = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device='meta')
    out.weight = nn.Parameter(weight.detach(), requires_grad=False)
    out.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return out


def rows_times(weight: Tensor, bias: Tensor | None, x_bhwc: Tensor) -> Tensor:
    """A linear map of the channels whose result is NCHW, straight from the matrix product."""
    columns = x_bhwc.flatten(1, 2).transpose(1, 2)  # (B, C, H W), a view
    out = weight.expand(columns.shape[0], -1, -1) @ columns
    return (out if bias is None else out + bias.view(1, -1, 1)).unflatten(2, x_bhwc.shape[1:3])


def times_columns(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear map of an NCHW map whose result is channels-last; one bias for all, `(O)`, or one for each sample, `(B, O)`."""
    out = x.flatten(2).transpose(1, 2) @ weight.t()
    return (out if bias is None else out + bias.view(-1, 1, weight.shape[0])).unflatten(1, x.shape[2:])


# --- AFFNet


class FoldedConv(Folded):
    """Stands for `ConvNormAct`: a convolution with the batch norm in it, then the activation."""

    def __init__(self, part: ConvNormAct):
        super().__init__()
        conv, norm = part.block.conv, part.block.norm
        self.act = getattr(part.block, 'act', None)
        self.arguments = (conv.stride, conv.padding, conv.dilation, conv.groups)
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        self.keep(weight=scaled(conv.weight, None, scale)[0], bias=bias if conv.bias is None else bias + conv.bias * scale)

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
    """Stands for `InvertedResidual`; works in strips of rows, which compute the rows that their neighbours need again."""

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
        return pointwise(expand) and pointwise(reduce) and square and depthwise.stride == (depthwise.stride[0],) * 2

    def forward(self, x: Tensor) -> Tensor:
        if is_traced() or x.device.type != 'cpu':
            y = self.reduce(self.depthwise(self.expand(x)))
            return plus(y, x) if self.adds else y
        rows = -(-x.shape[2] // self.stride)
        strips = pieces(rows, self.stride * x.shape[3] * self.depthwise.weight.shape[0] * x.element_size(), x)
        if len(strips) == len(x) == 1:
            return self.strip(x, strips[0])
        return torch.cat([torch.cat([self.strip(image, at) for at in strips], 2) for image in x.split(1)])

    def strip(self, x: Tensor, at: slice) -> Tensor:
        """Rows `at` of the result."""
        lead = -(-self.dilation // self.stride)  # rows of the result that see the padding of a strip where the map goes on
        first = max(at.start - lead, 0)
        last = min((at.stop - 1) * self.stride + self.dilation + 1, x.shape[2])
        hidden = self.depthwise(self.expand(x[:, :, first * self.stride : last]))
        y = self.reduce(hidden[:, :, at.start - first : at.stop - first])
        return plus(y, x[:, :, at]) if self.adds else y


class FoldedAFFStage(Folded):
    """Stands for `AFFStage`: the projection and the fusion, one linear map after another, are one."""

    def __init__(self, stage: AFFStage):
        super().__init__()
        self.global_rep = stage.global_rep
        inner, outer = FoldedConv(stage.conv_proj), FoldedConv(stage.fusion)
        of_x, of_y = (half.flatten(1) for half in outer.weight.chunk(2, 1))
        self.act = outer.act
        self.keep(
            of_x=of_x[..., None, None],
            of_y=(of_y @ inner.weight.flatten(1))[..., None, None],
            bias=outer.bias + of_y @ inner.bias,
        )

    @staticmethod
    def fits(stage: AFFStage) -> bool:
        parts = (stage.conv_proj, stage.fusion)
        plain = all(FoldedConv.fits(part) and pointwise(part.block.conv) for part in parts)
        return plain and not hasattr(stage.conv_proj.block, 'act') and type(getattr(stage.fusion.block, 'act', None)) is nn.SiLU

    def forward(self, x: Tensor) -> Tensor:
        y = plus(conv2d(x, self.of_x, self.bias), conv2d(self.global_rep(x), self.of_y))
        return silu_(y)

    def extra_repr(self) -> str:
        return f'{self.of_x.shape[1]}, folded: batch norms, projection'


class FoldedAdaptiveFilter(Folded):
    """Stands for `AdaptiveFrequencyFilter`; works on some blocks of channels at a time, which know nothing of each other."""

    def __init__(self, part: AdaptiveFrequencyFilter):
        super().__init__()
        self.threshold, self.spectral, self.act = part.threshold, part.spectral, part.act
        self.keep(w1=part.w1, b1=part.b1, w2=part.w2, b2=part.b2)

    @staticmethod
    def fits(part: AdaptiveFrequencyFilter) -> bool:
        return not part.channels_last

    def forward(self, x: Tensor) -> Tensor:
        blocks, size = self.w1.shape[1:3]
        outs = []
        for part in pieces(blocks, 2 * x[:, :size].numel() * max(x.element_size(), 4), x):
            weights = (w[:, part] for w in (self.w1, self.b1, self.w2, self.b2))
            piece = x[:, part.start * size : part.stop * size]
            outs.append(plus(adaptive_filter(piece, *weights, self.threshold, self.spectral, self.act), piece))
        return outs[0] if len(outs) == 1 else torch.cat(outs, 1)

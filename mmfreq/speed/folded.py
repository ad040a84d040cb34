"""Modules folded for inference: the base class, what may be folded, and the parts that several families share.

Norms, layer scales and affine maps are included in the next weights. On a CPU, maps are computed in chunks whose intermediate
results fit into the cache; compilers and exporters get whole maps. A folded module gives the outputs of the module in eval mode it
is constructed from, up to rounding. Only a module that is still as its class built it is replaced (`is_unmodified`, `fits`), so
that no hook or replaced part is bypassed. The blocks are in `folded_blocks.py` (HorNet, GFNet, DFFormer) and `folded_affnet.py`.

Legend: B batch, C channels, H W grid, T tokens; `x_bhwc` is channels-last.
"""

from collections.abc import Callable

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
)
from mmfreq.layers.basic import squared_relu, to_bchw, to_bhwc
from mmfreq.models.affnet import AFFStage, ConvNormAct, InvertedResidual
from mmfreq.models.dfformer import MetaFormerBlock, Scale, SepConv
from mmfreq.models.gfnet import GFNetBlock
from mmfreq.models.hornet import HorNetBlock
from mmfreq.ops.spectral import is_traced
from mmfreq.speed.compiling import SharedStochasticDepth

CHUNK_BYTES = 8 * 2**20  # of the widest intermediate result of a chunk on a CPU
REFUSAL = (
    'A model returned by mmfreq.optimize {}, because its weights are folded. Use the original model for this, '
    'then call mmfreq.optimize again.'
)
ACTS = (nn.GELU, nn.Identity, nn.ReLU, nn.SiLU, SquaredReLU, StarReLU)
DROPS = (nn.Identity, SharedStochasticDepth, StochasticDepth)  # nothing in eval mode
SKIPS = (nn.Identity, Scale)
ANY = None  # a part of any type: the folded module calls it
LINEAR, NORM, CONV = (nn.Linear,), (nn.LayerNorm,), (nn.Conv2d,)
# type of a module -> its submodules with the types that can be folded; a module of another type must have unmodified submodules
PART_TYPES = {
    AdaptiveFrequencyFilter: {},
    AFFStage: dict(global_rep=ANY, conv_proj=(ConvNormAct,), fusion=(ConvNormAct,)),
    ConvNormAct: dict(block=(nn.Sequential,)),
    DynamicFilter: dict(pwconv1=LINEAR, act1=ACTS, reweight=(Mlp,), pwconv2=LINEAR),
    GFNetBlock: dict(norm1=ANY, filter=ANY, norm2=NORM, mlp=(Mlp,), drop_path=DROPS),
    GlobalLocalFilter: dict(dw=ANY, pre_norm=ANY, post_norm=(LayerNorm2d,)),
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
    SepConv: dict(pwconv1=LINEAR, act1=ACTS, dwconv=ANY, pwconv2=ANY),
}


class InferenceOnly:
    """Mixin of modules with folded weights: training and loading a state dict raise a RuntimeError."""

    def train(self, mode: bool = True) -> nn.Module:
        if mode:
            raise RuntimeError(REFUSAL.format('cannot be trained'))
        return super().train(False)

    def _load_from_state_dict(self, *args):
        raise RuntimeError(REFUSAL.format('cannot load a state dict'))


class Folded(InferenceOnly, nn.Module):
    """Base of the folded modules: each is constructed from the module it replaces."""

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether an unmodified module (see `is_unmodified`) with these options can be folded."""
        return True

    def register_buffers(self, **tensors: Tensor | None) -> None:
        """Register detached, contiguous buffers under these names."""
        for name, tensor in tensors.items():
            self.register_buffer(name, None if tensor is None else tensor.detach().contiguous())


def is_unmodified(module: nn.Module) -> bool:
    """Whether the module and its submodules are as their classes built them: no hooks, parametrizations or replaced parts."""
    hooked = module._forward_hooks or module._forward_pre_hooks or 'forward' in vars(module)
    if hooked or any(type(p) is not nn.Parameter for p in module._parameters.values() if p is not None):
        return False
    parts, types = module._modules, PART_TYPES.get(type(module))
    if types is None:
        return all(part is None or is_unmodified(part) for part in parts.values())
    known = parts.keys() == types.keys()
    return known and all(
        allowed is ANY or (type(parts[name]) in allowed and is_unmodified(parts[name])) for name, allowed in types.items()
    )


def is_pointwise(conv: nn.Module) -> bool:
    """Whether it is a 1x1 convolution without groups, stride or padding."""
    if type(conv) is not nn.Conv2d or conv.groups != 1:
        return False
    return conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0)


def is_affine(module: nn.Module) -> bool:
    """Whether it has both a weight and a bias."""
    return module.weight is not None and module.bias is not None


def chunks(count: int, bytes_each: int, x: Tensor) -> list[slice]:
    """Slices that cover `count` items, on a CPU of at most `CHUNK_BYTES` each; one slice on other devices and for compilers."""
    if x.device.type != 'cpu' or is_traced() or count * bytes_each <= CHUNK_BYTES:
        return [slice(0, count)]
    rounds = -(-count // max(CHUNK_BYTES // bytes_each, 1))
    step = -(-count // rounds)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def apply_in_chunks(function: Callable[..., Tensor], width: int, *maps: Tensor) -> Tensor:
    """`function` of tokens, applied to channels-last maps in chunks of tokens.

    Args:
        function: several `(T, C_i)` to `(T, O)`.
        width: channels of the widest intermediate result.

    Shape:
        Several `(..., C_i)` to `(..., O)`.
    """
    if torch.onnx.is_in_onnx_export():
        return function(*maps)  # reshaping would add operators
    tokens = [x.reshape(-1, x.shape[-1]) for x in maps]
    slices = chunks(tokens[0].shape[0], width * tokens[0].element_size(), tokens[0])
    out = function(*(t[slices[0]] for t in tokens))
    if len(slices) > 1:
        first, out = out, out.new_empty(tokens[0].shape[0], out.shape[1])
        out[slices[0]] = first
        for at in slices[1:]:
            out[at] = function(*(t[at] for t in tokens))
    return out.view(*maps[0].shape[:-1], -1)


def fold_norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear map that follows a layer norm, with the norm's own weight and bias included."""
    if norm.bias is not None:
        shift = weight @ norm.bias
        bias = shift if bias is None else bias + shift
    return (weight if norm.weight is None else weight * norm.weight), bias


def fold_scale(weight: Tensor, bias: Tensor | None, scale: Tensor | float | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear map or convolution, multiplied by a factor per output channel."""
    if scale is None:
        return weight, bias
    factors = scale.view(-1, *[1] * (weight.ndim - 1)) if isinstance(scale, Tensor) else scale
    return weight * factors, None if bias is None else bias * scale


def fold_act(act: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor | None]:
    """(activation, weight, bias) with the affine map of a StarReLU included in the linear map that follows it."""
    if not isinstance(act, StarReLU):
        return act, weight, bias
    shift = (weight * act.bias).sum(1)
    return squared_relu_, weight * act.scale, shift if bias is None else bias + shift


def squared_relu_(x: Tensor) -> Tensor:
    """`squared_relu`, in place if `x` needs no gradient."""
    return squared_relu(x) if x.requires_grad or x.dtype == torch.float16 else x.relu_().square_()


def silu_(x: Tensor) -> Tensor:
    """`silu`, in place if `x` needs no gradient."""
    return silu(x, inplace=not x.requires_grad)


def add_into(branch: Tensor, skip: Tensor) -> Tensor:
    """`branch + skip`, in place in `branch` if the dtypes agree."""
    return branch.add_(skip) if branch.dtype == skip.dtype else branch + skip


class FoldedMlp(Folded):
    """`residual + scale * fc2(act(fc1(norm(x))))`."""

    def __init__(self, norm: nn.LayerNorm, fc1: nn.Linear, act: nn.Module, fc2: nn.Linear, scale: Tensor | None = None):
        super().__init__()
        self.eps = norm.eps
        w1, b1 = fold_norm(norm, fc1.weight, fc1.bias)
        self.act, w2, b2 = fold_act(act, fc2.weight, fc2.bias)
        w2, b2 = fold_scale(w2, b2, scale)
        self.register_buffers(w1=w1, b1=b1, w2=w2, b2=b2)

    def forward(self, x_bhwc: Tensor, residual_bhwc: Tensor) -> Tensor:
        return apply_in_chunks(self.forward_tokens, self.w1.shape[0], x_bhwc, residual_bhwc)

    def forward_tokens(self, x: Tensor, residual: Tensor) -> Tensor:
        hidden = linear(layer_norm(x, self.w1.shape[1:], eps=self.eps), self.w1, self.b1)
        return residual + linear(self.act(hidden), self.w2, self.b2)

    def extra_repr(self) -> str:
        return f'{self.w1.shape[1]}, hidden={self.w1.shape[0]}, folded: norm, activation, layer scale'


class FoldedPatches(Folded):
    """A convolution whose stride is its kernel, as a matrix product on patches; sides are rounded down.

    Compilers and exporters get the convolution.

    Shape:
        `(B, C, H, W)` to `(B, O, H // k, W // k)`, channels-last in memory.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.side = conv.kernel_size[0]
        self.register_buffers(weight=conv.weight.permute(0, 2, 3, 1).flatten(1), bias=conv.bias)

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

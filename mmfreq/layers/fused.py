"""Blocks' parts computed by the fused functions of `mmfreq.ops`, from the modules that keep the parameters.

The modules stay what they are (names, state dicts, `repr`), and where somebody has changed or watches one of them (a forward hook,
another class in its place, a replaced `forward`) it is called as usual: the fused form is taken only where nobody can tell.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.nn.modules import module as torch_module
from torchvision.ops import StochasticDepth

from mmfreq.layers.activation import SquaredReLU, StarReLU
from mmfreq.layers.eval_cache import EvalCache
from mmfreq.layers.layout import to_bchw, to_bhwc
from mmfreq.ops.activation import squared_relu
from mmfreq.ops.depthwise import depthwise_conv
from mmfreq.ops.fusing import may_fuse, wants_gradient, work_dtype
from mmfreq.ops.norm_mlp import norm_mlp, scaled_linear
from mmfreq.ops.patches import patch_linear

# class -> what remains of the activation once its affine map is part of the next linear one
ACTIVATIONS: dict[type, Callable[[Tensor], Tensor]] = {
    nn.GELU: gelu,
    nn.ReLU: torch.relu,
    StarReLU: squared_relu,
    SquaredReLU: squared_relu,
}
CONTAINERS = (nn.Sequential, nn.ModuleList)
# what `torch.nn.modules.module.register_module_*_hook` fills: hooks that watch every module; torch 2.4 has no question for them
GLOBAL_HOOKS = tuple(
    getattr(torch_module, f'_global_{kind}_hooks') for kind in ('forward', 'forward_pre', 'backward', 'backward_pre')
)
PLAIN = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d, nn.SiLU, nn.Identity, StochasticDepth, *CONTAINERS, *ACTIVATIONS)


def fusable(*modules: nn.Module) -> bool:
    """Whether the modules may be computed together: eager mode, and all are what they look like, unwatched."""
    if not may_fuse() or any(GLOBAL_HOOKS):
        return False
    return all(is_untouched(m) for m in modules)


def is_untouched(module: nn.Module) -> bool:
    """A module of ours, or one with the forward of one of `PLAIN`; without hooks."""
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    if 'forward' in module.__dict__:
        return False
    ours = type(module).__module__.partition('.')[0] == 'mmfreq'
    return ours or any(isinstance(module, kind) and type(module).forward is kind.forward for kind in PLAIN)


def norm_of(norm: nn.LayerNorm) -> tuple[Tensor | None, Tensor | None, float]:
    """Weight, bias and eps."""
    return norm.weight, norm.bias, norm.eps


def scale_inside(x: Tensor, scale: Tensor | None) -> bool:
    """Whether a layer scale may be multiplied into the matrix before it; in float16 a small one would be lost there."""
    return scale is not None and work_dtype(x) != torch.float16


def drops_nothing(drop_path: nn.Module) -> bool:
    """Whether it would return its input, and nobody would see that it was not called."""
    off = isinstance(drop_path, StochasticDepth) and (drop_path.p == 0 or not drop_path.training)
    return (off or isinstance(drop_path, nn.Identity)) and fusable(drop_path)


def mlp_residual(
    skip: Tensor,
    x: Tensor,
    norm: nn.LayerNorm | None,
    fc1: nn.Linear,
    act: nn.Module,
    fc2: nn.Linear,
    scale: Tensor | None,
    drop_path: nn.Module,
    cache: EvalCache,
    overwrite: bool = False,
) -> Tensor:
    """`skip + drop_path(scale * fc2(act(fc1(norm(x)))))` over the last axis.

    Args:
        skip, x: channels-last maps; they may be the same.
        norm, scale: may be None.
        cache: of the block, for the weights as they are used.
        overwrite: without gradients, `skip` may be used for the result: nobody else needs it.
    """
    if not has_form(act) or not fusable(*(m for m in (norm, fc1, act, fc2) if m is not None)):
        y = fc2(act(fc1(x if norm is None else norm(x))))
        return skip + drop_path(y if scale is None else scale * y)
    norm_parts = None if norm is None else norm_of(norm)
    inside = scale_inside(x, scale)
    star = (act.scale, act.bias) if isinstance(act, StarReLU) else (None, None)
    sources = (fc1.weight, fc1.bias, fc2.weight, fc2.bias, scale if inside else None, *star)
    prepare = partial(mlp_weights, dtype=work_dtype(x))
    function = ACTIVATIONS[type(act)]
    whole = scale is None or inside
    if wants_gradient(skip, x, *sources, *(norm_parts or ())[:2]):
        y = norm_mlp(x, norm_parts, sources, function, prepare)
        return add_branch(skip, y if whole else scale * y, drop_path)
    weights = cache.get(fc1.training, ('mlp', work_dtype(x)), sources, lambda: prepare(*sources))
    if whole and overwrite and drops_nothing(drop_path) and skip.is_contiguous():
        return norm_mlp(x, norm_parts, weights, function, residual=skip)
    y = norm_mlp(x, norm_parts, weights, function)
    return add_branch(skip, y if whole else scale * y, drop_path)


def mlp_weights(
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    scale: Tensor | None,
    star_scale: Tensor | None,
    star_bias: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor | None, ...]:
    """Weights and biases of both linear maps in `dtype`, with StarReLU's affine map and the layer scale in the second.

    With r the rectified hidden layer, W2 (s r^2 + t) + b2 = (s W2) r^2 + (t W2 1 + b2).
    """
    if star_scale is not None:
        shift = star_bias * w2.sum(1)
        w2, b2 = w2 * star_scale, shift if b2 is None else b2 + shift
    return in_dtype(dtype, (w1, b1, *scaled_linear(w2, b2, scale)))


def has_form(act: nn.Module) -> bool:
    """Whether the table knows the activation."""
    return type(act) in ACTIVATIONS and getattr(act, 'approximate', 'none') == 'none'


def in_dtype(dtype: torch.dtype, tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Each cast to `dtype`, None left alone."""
    return tuple(t if t is None else t.to(dtype) for t in tensors)


def linear_weights(module: nn.Linear, x: Tensor, cache: EvalCache) -> tuple[Tensor, Tensor | None]:
    """(weight, bias) in the dtype in which torch would multiply `x` with them."""
    dtype = work_dtype(x)
    return cache.get(
        module.training, (id(module), dtype), parameters_of(module), lambda: in_dtype(dtype, (module.weight, module.bias))
    )


def parameters_of(*modules: nn.Module) -> tuple[Tensor, ...]:
    return tuple(p for module in modules for p in module.parameters())


def add_branch(skip: Tensor, branch: Tensor, drop_path: nn.Module, *makers: nn.Module) -> Tensor:
    """`skip + drop_path(branch)`; in the memory of `branch` where autograd does not mind and nobody else has it.

    Args:
        makers: modules that were called for `branch`; they and their parts could have kept it for a hook.
    """
    allowed = drops_nothing(drop_path) and branch.dtype == skip.dtype and not wants_gradient(branch, skip)
    if allowed and fusable(*(part for maker in makers for part in maker.modules())):
        return branch.add_(skip)
    return skip + drop_path(branch)


def patches(conv: nn.Conv2d, x_bhwc: Tensor) -> Tensor:
    """A convolution whose stride is its kernel, on a channels-last map, the result channels-last."""
    if x_bhwc.device.type == 'cpu' and fusable(conv):
        return patch_linear(x_bhwc, conv.weight, conv.bias)
    return to_bhwc(conv(to_bchw(x_bhwc)))


def depthwise(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A depth-wise convolution, with these weights in place of its own; NCHW."""
    side = weight.shape[-1]
    keeps_grid = conv.stride == conv.dilation == (1, 1) and conv.padding == (side // 2, side // 2) and side % 2
    if keeps_grid and weight.shape[1:] == (1, side, side) and len(weight) == conv.groups and conv.padding_mode == 'zeros':
        return depthwise_conv(x, weight, bias)
    return conv._conv_forward(x, weight, bias)


def strided_conv(conv: nn.Conv2d, x_bhwc: Tensor) -> Tensor:
    """Any other convolution, likewise; on a CPU in channels-last layout."""
    x = to_bchw(x_bhwc)
    return to_bhwc(conv(x.contiguous(memory_format=torch.channels_last) if x.device.type == 'cpu' else x))

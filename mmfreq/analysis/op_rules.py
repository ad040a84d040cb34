"""What one operator call costs, in multiply-adds, and to which part of the count it belongs.

| part | operators |
|---|---|
| `conv_matmul` | convolutions, matrix products, attention: what the papers' counters see |
| `fft` | transforms: FFT operators, and the matrix products that stand for them in `mmfreq.ops.spectral` |
| `spectral` | element-wise work on a spectrum: complex products, and products and functions inside mmfreq's spectral operators |
| `other` | norms, activations, element-wise products, means, resizing |

Rules of the last two: one per element for products and for functions like exp, nothing for additions, comparisons and copies;
norms, batch norm, pooling and bilinear resizing as mmengine's FlopAnalyzer counts them.
"""

import sys
from collections.abc import Callable
from math import ceil, log2, prod

import torch
from torch.utils.flop_counter import flop_registry

from mmfreq.ops import cost, spectral

PARTS = ('conv_matmul', 'fft', 'spectral', 'other')

aten = torch.ops.aten
_PLACES = {  # code of a function -> what is being done while it runs
    **{f.__code__: 'basis' for f in (spectral.cos_sin, spectral.multiplicity)},
    **{f.__code__: 'transform' for f in (spectral.spectrum, spectral.grid)},
    **{f.__code__: 'spectral operator' for f in (spectral.apply_filter, spectral.map_spectrum)},
}
_MATMULS = {op: formula for op, formula in flop_registry.items() if not getattr(op, '__name__', '').endswith('backward')}
_PRODUCTS = {aten.mul, aten.mul_, aten.div, aten.div_, aten.addcmul, aten.pow, aten.reciprocal}
_FUNCTIONS = {
    *(aten.gelu, aten.silu, aten.silu_, aten.sigmoid, aten.sigmoid_, aten.tanh, aten.elu, aten.hardswish, aten.hardswish_),
    *(aten.exp, aten.log, aten.sqrt, aten.rsqrt, aten._softmax, aten._log_softmax, aten.softplus, aten.mish, aten.leaky_relu),
}
_FACTORS = {  # operator -> (per element of the first input, per element of the first output)
    **dict.fromkeys((aten.mean, aten.sum, aten.avg_pool2d, aten._adaptive_avg_pool2d), (1, 0)),
    **dict.fromkeys((aten.native_layer_norm, aten.native_group_norm), (5, 0)),
    **dict.fromkeys((aten.native_batch_norm, aten.cudnn_batch_norm, aten._native_batch_norm_legit_no_training), (2, 0)),
    **dict.fromkeys((aten.upsample_bilinear2d, aten._upsample_bilinear2d_aa, aten.grid_sampler_2d), (0, 4)),
    **dict.fromkeys((aten.upsample_bicubic2d, aten._upsample_bicubic2d_aa), (0, 16)),
    **dict.fromkeys(_FUNCTIONS, (0, 1)),
}


def price(func: Callable, args: tuple, kwargs: dict, out) -> tuple[str, float]:
    """Part and multiply-adds of one call of an operator overload, as a `TorchDispatchMode` gets it."""
    op = func.overloadpacket
    if op in _FFTS:
        return 'fft', _FFTS[op](args, out)
    if op in _MATMULS:
        return ('fft' if _place() == 'transform' else 'conv_matmul'), _MATMULS[op](*args, **kwargs, out_val=out) / 2
    if op not in _PRODUCTS and op not in _FACTORS:
        return 'other', 0
    place = _place()
    if place == 'basis':  # made once for each size
        return 'other', 0
    part = 'spectral' if place else 'other'
    if op in _PRODUCTS:
        is_complex = [isinstance(arg, torch.Tensor) and arg.is_complex() for arg in args[:2]]
        per_element = (1, 2, cost.COMPLEX_PRODUCT)[sum(is_complex)]
        return 'spectral' if any(is_complex) else part, per_element * out.numel()
    per_input, per_output = _FACTORS[op]
    return part, (per_input and per_input * args[0].numel()) + (per_output and per_output * out.numel())


def published_fft(func: Callable, args: tuple, out) -> int:
    """The call by the formula of GFNet's and HorNet's scripts (`cost.published_fft_cost`); 0 for anything but an FFT."""
    if func.overloadpacket not in _FFTS:
        return 0
    full = out if func.overloadpacket is aten._fft_c2r else args[0]
    return full.numel() * ceil(log2(prod(full.shape[d] for d in args[1])))


def _r2c(args: tuple, out) -> float:
    return _real(args[0], out, args[1])


def _c2r(args: tuple, out) -> float:
    return _real(out, args[0], args[1])


def _c2c(args: tuple, out) -> float:
    return sum(args[0].numel() / args[0].shape[d] * cost.fft_cost(args[0].shape[d]) for d in args[1])


def _real(grid: torch.Tensor, half: torch.Tensor, dims: list[int]) -> float:
    """Real over the last of `dims`, complex over the others on the half spectrum."""
    *columns, row = dims
    rows = grid.numel() / grid.shape[row] * cost.rfft_cost(grid.shape[row])
    return rows + sum(half.numel() / half.shape[d] * cost.fft_cost(half.shape[d]) for d in columns)


_FFTS = {aten._fft_r2c: _r2c, aten._fft_c2r: _c2r, aten._fft_c2c: _c2c}


def _place() -> str | None:
    """Which of the functions in `_PLACES` is being executed, the innermost first; None outside of them."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code not in _PLACES:
        frame = frame.f_back
    return _PLACES[frame.f_code] if frame else None

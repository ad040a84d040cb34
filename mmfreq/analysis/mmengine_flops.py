"""Handles that add Fourier transforms, complex products and broadcast matrix products to mmengine's FlopAnalyzer, as in fvcore.

    analyzer = register_handles(FlopAnalyzer(model, inputs))

    with fft_aware_mmengine():
        get_model_complexity_info(model, (3, 224, 224))

The counts are those of `mmfreq.ops.cost`. Without these handles mmengine 0.10 skips transforms and complex products, and counts the
product of a matrix with a batch of matrices as one product. Like mmengine, the handles do not count real element-wise products;
`mmfreq.analysis.flops.count` does.
"""

from collections.abc import Callable
from contextlib import contextmanager
from math import prod
from typing import Any
from unittest.mock import patch

from mmengine.analysis import FlopAnalyzer, complexity_analysis

from mmfreq.analysis.flops import complex_fft_macs, real_fft_macs
from mmfreq.ops.cost import COMPLEX_PRODUCT


def register_handles(analyzer: FlopAnalyzer) -> FlopAnalyzer:
    """Add the handles to an analyzer and return it."""
    return analyzer.set_op_handle(**HANDLES)


@contextmanager
def fft_aware_mmengine():
    """Add the handles to every analyzer created inside, also by `get_model_complexity_info`; restore mmengine afterwards."""
    with patch.dict(complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS, HANDLES):
        yield


def _sizes(value: Any) -> list[int]:
    return value.type().sizes() or []


def _dims(value: Any, ndim: int, default: tuple[int, ...]) -> list[int]:
    """The dims of a transform in a traced graph (an int, a list of ints or None), non-negative; `()` stands for all dims."""
    dims = value.toIValue() if value.node().kind() == 'prim::Constant' else [i.toIValue() for i in value.node().inputs()]
    dims = (default or range(ndim)) if dims is None else (dims,) if isinstance(dims, int) else dims
    return [d % ndim for d in dims]


def _real_transform(default: tuple[int, ...], inverse: bool) -> Callable:
    """aten::fft_rfft*(x, n or s, dim or dims, norm), aten::fft_irfft* likewise."""

    def handle(inputs: list[Any], outputs: list[Any]) -> float:
        grid, half = (_sizes(outputs[0]), _sizes(inputs[0])) if inverse else (_sizes(inputs[0]), _sizes(outputs[0]))
        return real_fft_macs(grid, half, _dims(inputs[2], len(grid), default))

    return handle


def _complex_transform(default: tuple[int, ...]) -> Callable:
    """aten::fft_fft*(x, n or s, dim or dims, norm) and aten::fft_ifft*."""

    def handle(inputs: list[Any], outputs: list[Any]) -> float:
        shape = _sizes(outputs[0])
        return complex_fft_macs(shape, _dims(inputs[2], len(shape), default))

    return handle


def _complex_product(inputs: list[Any], outputs: list[Any]) -> int:
    """aten::mul: four per element if both factors are complex, two if one is, else nothing."""
    factors = sum('complex' in str(getattr(v.type(), 'dtype', lambda: None)()) for v in inputs[:2])
    return (0, 2, COMPLEX_PRODUCT)[factors] * prod(_sizes(outputs[0]))


def _matmul(inputs: list[Any], outputs: list[Any]) -> int:
    """aten::matmul of any two shapes, including broadcast ones."""
    return prod(_sizes(outputs[0])) * _sizes(inputs[0])[-1]


def _free(inputs: list[Any], outputs: list[Any]) -> int:
    return 0


HANDLES: dict[str, Callable] = {
    'aten::mul': _complex_product,
    'aten::matmul': _matmul,
    **{f'aten::{name}': _free for name in ('complex', 'imag', 'real', 'view_as_complex', 'view_as_real', 'unflatten')},
}
for suffix, dims in (('', (-1,)), ('2', (-2, -1)), ('n', ())):
    HANDLES[f'aten::fft_rfft{suffix}'] = _real_transform(dims, inverse=False)
    HANDLES[f'aten::fft_irfft{suffix}'] = _real_transform(dims, inverse=True)
    HANDLES[f'aten::fft_fft{suffix}'] = HANDLES[f'aten::fft_ifft{suffix}'] = _complex_transform(dims)

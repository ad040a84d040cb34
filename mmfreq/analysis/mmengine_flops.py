"""Handles that let mmengine's FlopAnalyzer see Fourier transforms, complex products and broadcast matrix products.

    analyzer = register_handles(FlopAnalyzer(model, inputs))

    with fft_aware_mmengine():
        get_model_complexity_info(model, (3, 224, 224))

The counts are those of `mmfreq.ops.cost`. Without these handles mmengine 0.10 leaves transforms and complex products out, and of
the product of a matrix with a batch of matrices it counts one. Real element-wise products are not counted, as in mmengine itself;
`complexity.count` does.
"""

from contextlib import contextmanager
from math import prod
from typing import Any
from unittest.mock import patch

from mmengine.analysis import FlopAnalyzer, complexity_analysis

from mmfreq.ops import cost


def register_handles(analyzer: FlopAnalyzer | None = None) -> FlopAnalyzer | None:
    """Give the handles to one analyzer, and return it; without one, to every analyzer that mmengine makes from now on."""
    if analyzer is None:
        complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS.update(HANDLES)
        return None
    return analyzer.set_op_handle(**HANDLES)


@contextmanager
def fft_aware_mmengine():
    """Every analyzer made inside has the handles, those of `get_model_complexity_info` too; afterwards mmengine is as before."""
    with patch.dict(complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS, HANDLES):
        yield


def _sizes(value: Any) -> list[int]:
    return value.type().sizes() or []


def _dims(value: Any, ndim: int, default: tuple[int, ...]) -> list[int]:
    """An int or a list of ints of a traced graph, non-negative."""
    found = value.toIValue() if value.node().kind() == 'prim::Constant' else [i.toIValue() for i in value.node().inputs()]
    found = default if found is None else (found,) if isinstance(found, int) else found
    return [d % ndim for d in found]


def _real_transform(default: tuple[int, ...], inverse: bool):
    """aten::fft_rfft*(x, n or s, dim or dims, norm), aten::fft_irfft* likewise."""

    def handle(inputs: list[Any], outputs: list[Any]) -> float:
        grid, half = (_sizes(outputs[0]), _sizes(inputs[0])) if inverse else (_sizes(inputs[0]), _sizes(outputs[0]))
        *columns, row = _dims(inputs[2], len(grid), default or tuple(range(len(grid))))
        rows = prod(grid) / grid[row] * cost.rfft_cost(grid[row])
        return rows + sum(prod(half) / half[d] * cost.fft_cost(half[d]) for d in columns)

    return handle


def _complex_transform(default: tuple[int, ...]):
    """aten::fft_fft*(x, n or s, dim or dims, norm) and aten::fft_ifft*."""

    def handle(inputs: list[Any], outputs: list[Any]) -> float:
        shape = _sizes(outputs[0])
        dims = _dims(inputs[2], len(shape), default or tuple(range(len(shape))))
        return sum(prod(shape) / shape[d] * cost.fft_cost(shape[d]) for d in dims)

    return handle


def _complex_product(inputs: list[Any], outputs: list[Any]) -> int:
    """aten::mul: four per element where both factors are complex, two where one is, else nothing."""
    factors = sum('complex' in str(getattr(v.type(), 'dtype', lambda: None)()) for v in inputs[:2])
    return (0, 2, cost.COMPLEX_PRODUCT)[factors] * prod(_sizes(outputs[0]))


def _matmul(inputs: list[Any], outputs: list[Any]) -> int:
    """aten::matmul of any two shapes, broadcast included."""
    return prod(_sizes(outputs[0])) * _sizes(inputs[0])[-1]


def _nothing(inputs: list[Any], outputs: list[Any]) -> int:
    return 0


_LAST, _LAST_TWO, _ALL = (-1,), (-2, -1), ()
HANDLES = {
    **{f'aten::fft_rfft{n}': _real_transform(dims, False) for n, dims in (('', _LAST), ('2', _LAST_TWO), ('n', _ALL))},
    **{f'aten::fft_irfft{n}': _real_transform(dims, True) for n, dims in (('', _LAST), ('2', _LAST_TWO), ('n', _ALL))},
    **{f'aten::fft_fft{n}': _complex_transform(dims) for n, dims in (('', _LAST), ('2', _LAST_TWO), ('n', _ALL))},
    **{f'aten::fft_ifft{n}': _complex_transform(dims) for n, dims in (('', _LAST), ('2', _LAST_TWO), ('n', _ALL))},
    'aten::mul': _complex_product,
    'aten::matmul': _matmul,
    **{f'aten::{name}': _nothing for name in ('complex', 'imag', 'real', 'view_as_complex', 'view_as_real', 'unflatten')},
}

"""Matrices made from a map's size within the graph, for exported programs whose image size is open.

During `torch.export` with an open height or width, sides of maps are `torch.SymInt`s. Python code must neither convert nor compare
them, since the program would then be valid for one size only. The functions here compute from `torch.arange(side)` alone, with
operators that every runtime has: bases of the Fourier transforms, interpolation, selection and adaptive pooling, each as a real
matrix for one axis. They also accept integers.

Positions and their products stay below 2^24, so they are exact in float32.

Legend: n a side of the map, m a side of a stored grid, k a number of bins.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from math import pi
from typing import TypeVar

import torch
from torch import Tensor

CUBIC_A = -0.75  # of torch's bicubic interpolation
Side = int | torch.SymInt
Result = TypeVar('Result')

_shared: ContextVar[dict[tuple[str, ...], object] | None] = ContextVar('shared matrices', default=None)


def is_open(*sides: Side) -> bool:
    """Whether one of the sides is symbolic: its value is not known while the program is traced."""
    return any(isinstance(side, torch.SymInt) for side in sides)


@contextmanager
def shared_matrices() -> Iterator[dict[tuple[str, ...], object]]:
    """Within this context each matrix is computed once for each size. Clear the dict before another forward pass."""
    known: dict[tuple[str, ...], object] = {}
    token = _shared.set(known)
    try:
        yield known
    finally:
        _shared.reset(token)


def shared(function: Callable[..., Result]) -> Callable[..., Result]:
    """A function of sides, dtypes and devices whose results are shared within `shared_matrices`."""

    @wraps(function)
    def found_or_computed(*arguments) -> Result:
        known = _shared.get()
        if known is None:
            return function(*arguments)
        key = (function.__name__, *map(str, arguments))  # a symbolic side is equal to another if their expressions are
        if key not in known:
            known[key] = function(*arguments)
        return known[key]  # type: ignore[return-value]

    return found_or_computed


@shared
def positions(side: Side, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0, 1, ..., n - 1."""
    return torch.arange(side, device=device).to(dtype)


@shared
def length(side: Side, dtype: torch.dtype, device: torch.device) -> Tensor:
    """n, as a tensor of one element."""
    return positions(side, dtype, device)[-1:] + 1


@shared
def cos_sin(side: Side, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices cos(2 pi i j / n) / sqrt(n) and sin likewise, both (n, n)."""
    at, n = positions(side, dtype, device), length(side, dtype, device)
    products = torch.outer(at, at)
    # the rounding of the quotient can change its integer part by one, which the period of cos and sin hides
    angle = (products - (products / n).floor() * n) * (2 * pi / n)
    return angle.cos() * n.rsqrt(), angle.sin() * n.rsqrt()


@shared
def half_cos_sin(side: Side, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first n // 2 + 1 columns of `cos_sin`: the transform of a real axis to its half spectrum."""
    cos, sin = cos_sin(side, dtype, device)
    return cos[:, : side // 2 + 1], sin[:, : side // 2 + 1]


@shared
def inverse_half_cos_sin(side: Side, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """`(n // 2 + 1, n)`: `half_cos_sin` transposed, times how often each column occurs in the full spectrum."""
    cos, sin = half_cos_sin(side, dtype, device)
    times = multiplicity(side, dtype, device)
    return (cos * times).t(), (sin * times).t()


def multiplicity(side: Side, dtype: torch.dtype, device: torch.device) -> Tensor:
    """How often each of the n // 2 + 1 columns occurs in the full spectrum: 1 for zero and Nyquist, else 2."""
    column, n = positions(side // 2 + 1, dtype, device), length(side, dtype, device)
    return 2 - (column == 0).to(dtype) - (2 * column == n).to(dtype)


@shared
def interpolation(stored: int, side: Side, mode: str, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`(n, m)`: torch's bilinear (with align_corners) or bicubic interpolation from m to n positions."""
    at, n = positions(side, dtype, device), length(side, dtype, device)
    source = at * ((stored - 1) / (n - 1).clamp(min=1)) if align_corners else (at + 0.5) * (stored / n) - 0.5
    if mode == 'bilinear':
        return (1 - (source.unsqueeze(1) - positions(stored, dtype, device)).abs()).clamp(min=0)
    taps = torch.arange(-2, stored + 2, device=device)  # with those outside the grid, which have the value at its border
    weights = cubic_weights((source.unsqueeze(1) - taps.to(dtype)).abs())
    return weights @ torch.nn.functional.one_hot(taps.clamp(0, stored - 1), stored).to(dtype)


def cubic_weights(distance: Tensor) -> Tensor:
    """Weights of the cubic convolution kernel with a = -0.75."""
    near, far = distance.clamp(max=1), distance.clamp(1, 2)
    of_near = ((CUBIC_A + 2) * near - (CUBIC_A + 3)) * near * near + 1  # 0 at distance 1
    of_far = ((CUBIC_A * far - 5 * CUBIC_A) * far + 8 * CUBIC_A) * far - 4 * CUBIC_A  # 0 at distances 1 and 2
    return of_near + of_far


@shared
def selection(stored: int, side: Side, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`(n, m)`: keeps the min(m, n) offsets or frequencies around zero of a periodic axis; the others are zero."""
    at, n = positions(side, dtype, device).unsqueeze(1), length(side, dtype, device)
    column = positions(stored, dtype, device)
    keep = n.clamp(max=stored)
    ahead = (at == column) & (at < ((keep + 1) / 2).floor())
    behind = (n - at == stored - column) & (n - at <= (keep / 2).floor())
    return (ahead | behind).to(dtype)


@shared
def first(stored: int, side: Side, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`(n, m)`: keeps the first min(m, n) positions; the others are zero."""
    return (positions(side, dtype, device).unsqueeze(1) == positions(stored, dtype, device)).to(dtype)


@shared
def pooling(bins: int, side: Side, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`(k, n)`: the means of adaptive average pooling over positions i n // k up to (i + 1) n / k, rounded up."""
    at, n = positions(side, dtype, device), length(side, dtype, device)
    bin = positions(bins, dtype, device).unsqueeze(1)
    start, end = (bin * n / bins).floor(), ((bin + 1) * n / bins).ceil()
    return ((at >= start) & (at < end)).to(dtype) / (end - start)

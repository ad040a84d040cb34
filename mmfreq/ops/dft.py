"""The spectral operator as real matrix products: no complex number, no FFT, the same meaning of the inverse.

For a map `X` (H x W): real transform over W by one (W, 2F) basis, complex transform over H by cosine and sine matrices, the filter
as a real product on (re, im), and the way back. In the last step the zero and Nyquist columns enter once and the others twice, and
the sines of the former are zero: the imaginary part of these columns drops out by itself.

Bases are cached by size, dtype and device; they are never buffers, so that a checkpoint knows nothing of image sizes.
"""

from collections.abc import Callable
from functools import lru_cache
from math import pi, sqrt

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def cos_sin(rows: int, cols: int, period: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices cos and sin of 2 pi j k / period over sqrt(period), j < rows, k < cols, computed in float64."""
    with torch.inference_mode(False), torch.no_grad():
        turns = torch.outer(torch.arange(rows), torch.arange(cols)) % period  # reduced first: exact for long sides
        angle = turns.to(torch.float64) * (2 * pi / period)
        return tuple((f(angle) / sqrt(period)).to(device=device, dtype=dtype) for f in (torch.cos, torch.sin))


@lru_cache(maxsize=64)
def multiplicity(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """How often each of the F columns stands in the full spectrum: 1 for zero and Nyquist, else 2."""
    with torch.inference_mode(False):
        times = torch.full((width // 2 + 1,), 2.0, dtype=dtype, device=device)
        times[0] = 1
        if width % 2 == 0:
            times[-1] = 1
        return times


def filter_by_matmul(x: Tensor, weight: Tensor, dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """Inverse transform of `weight` times the spectrum of `x`, orthonormal, by real matrix products.

    Shape:
        `x` real with H, W at `dims`; `weight` broadcasts as in `apply_filter`: H, F at the same places and (re, im) last.
    """
    weight_re, weight_im = weight.unbind(-1)
    return map_by_matmul(x, lambda re, im: (re * weight_re - im * weight_im, re * weight_im + im * weight_re), dims)


def map_by_matmul(
    x: Tensor, function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], dims: tuple[int, int] = (-2, -1)
) -> Tensor:
    """Inverse transform of a function of the spectrum of `x`, orthonormal, by real matrix products.

    Shape:
        `x` real with H, W at `dims`; `function` takes and returns real and imaginary part with H, F at the same places.
    """
    dims = (dims[0] % x.ndim, dims[1] % x.ndim)
    in_place = (part.movedim((-2, -1), dims) for part in spectrum(x.movedim(dims, (-2, -1))))
    re, im = (part.movedim(dims, (-2, -1)) for part in function(*in_place))
    return grid(re, im, x.shape[dims[1]]).movedim((-2, -1), dims)


def spectrum(x: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the orthonormal half spectrum: `(..., H, W)` to two of `(..., H, F)`."""
    height, width = x.shape[-2:]
    cos_w, sin_w = cos_sin(width, width // 2 + 1, width, x.dtype, x.device)
    cos_h, sin_h = cos_sin(height, height, height, x.dtype, x.device)
    re, im = x @ cos_w, -(x @ sin_w)
    return cos_h @ re + sin_h @ im, cos_h @ im - sin_h @ re


def grid(re: Tensor, im: Tensor, width: int) -> Tensor:
    """Back to the grid: two of `(..., H, F)` to `(..., H, W)`; imaginary parts of self-conjugate columns are ignored."""
    height, half = re.shape[-2:]
    cos_h, sin_h = cos_sin(height, height, height, re.dtype, re.device)
    cos_w, sin_w = cos_sin(half, width, width, re.dtype, re.device)
    times = multiplicity(width, re.dtype, re.device).unsqueeze(-1)
    back_re, back_im = cos_h @ re - sin_h @ im, cos_h @ im + sin_h @ re
    return back_re @ (times * cos_w) - back_im @ (times * sin_w)

"""The spectral operator as real matrix products: no complex number, no FFT, the same meaning of the inverse.

For a map `X` (H x W): real transform over W by one (W, 2F) basis, complex transform over H by cosine and sine matrices, the filter
as a real product on (re, im), and the way back. In the last step the zero and Nyquist columns enter once and the others twice, and
the sines of the former are zero: the imaginary part of these columns drops out by itself.

Bases are cached by size, dtype and device; they are never buffers, so that a checkpoint knows nothing of image sizes.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from math import pi

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.utils._python_dispatch import _disable_current_modes


def kept(make: Callable) -> Callable:
    """`make`, a function from sizes, dtype and device to tensors, with its last results kept.

    Fake tensors and a compiler, whose sizes may be symbols, get new ones, so that what is kept is real whoever asks first. In
    `torch.export` the kept ones become constants of the graph.
    """

    @lru_cache(maxsize=64)
    def made_for_real(*arguments):
        with _disable_current_modes():
            return make(*arguments)

    @wraps(make)
    def found(*arguments):
        if torch.compiler.is_dynamo_compiling() or any(isinstance(argument, torch.SymInt) for argument in arguments):
            return make(*arguments)
        if not torch.compiler.is_compiling() and detect_fake_mode() is not None:
            return make(*arguments)
        return made_for_real(*arguments)

    found.cache_clear, found.cache_info = made_for_real.cache_clear, made_for_real.cache_info
    return found


@kept
def cos_sin(rows: int, cols: int, period: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices cos and sin of 2 pi j k / period over sqrt(period), j < rows, k < cols, computed in float64."""
    with torch.inference_mode(False), torch.no_grad():
        turns = torch.outer(torch.arange(rows), torch.arange(cols)) % period  # reduced first: exact for long sides
        angle = turns.to(torch.float64) * (2 * pi / period)
        return tuple((f(angle) / period**0.5).to(device=device, dtype=dtype) for f in (torch.cos, torch.sin))


@kept
def multiplicity(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """How often each of the F columns stands in the full spectrum: 1 for zero and Nyquist, else 2."""
    with torch.inference_mode(False), torch.no_grad():
        column = torch.arange(width // 2 + 1, device=device)
        return torch.where((column == 0) | (2 * column == width), 1, 2).to(dtype)


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

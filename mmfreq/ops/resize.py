"""Policies that carry a stored filter to another grid.

| policy | what stays the same | source |
|---|---|---|
| `bilinear` | the half spectrum as a picture, corners on corners | HorNet's code, at load and in forward |
| `bicubic` | the same with a cubic kernel | GFNet's and DFFormer's code |
| `kernel` | the spatial kernel in pixels: zero-padded or cropped around its centre | ours |
| `modes` | the response to each number of cycles per image; others zero or dropped | ours |
| `none` | nothing: maps of another size are refused | ours |

The published two treat the spectrum as if it were an image, without centring the vertical frequencies; the published weights were
trained with them. `kernel` and `modes` act on the operator that the filter *is* (see `ops/spectral.py`): the part of the zero and
Nyquist columns that the inverse ignores is not carried over.

A filter is a real tensor with (real, imaginary) in its last axis. The width W of a stored grid cannot be read off its half width
F = W // 2 + 1 (W = 2F - 2 or 2F - 1); square grids are the published case, so W = H where that fits.
"""

from contextlib import AbstractContextManager, nullcontext
from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate

RESIZE_POLICIES = ('bilinear', 'bicubic', 'kernel', 'modes', 'none')


def resize_filter(
    weight: Tensor, size: tuple[int, int], policy: str, dims: tuple[int, int] = (-3, -2), width: int | None = None
) -> Tensor:
    """The filter for maps of `size` (H, W) from a filter stored for another grid.

    Args:
        weight: real filter, (real, imaginary) last, H and F at `dims`; at most one more axis.
        size: (H, W) of the maps to filter; the half width is derived.
        policy: one of `RESIZE_POLICIES`.
        dims: positions of H and F in `weight`.
        width: W of the stored grid; by default H if H // 2 + 1 fits, else 2F - 2.

    Shape:
        `(..., H0, F0, ..., 2)` to `(..., H, W // 2 + 1, ..., 2)`; the same tensor where nothing changes.

    Raises:
        ValueError: unknown policy, or another size with policy 'none'.
    """
    if policy not in RESIZE_POLICIES:
        raise ValueError(f"filter resize policy '{policy}' is unknown; choose one of {', '.join(RESIZE_POLICIES)}")
    dims = tuple(d % weight.ndim for d in dims)
    stored = (weight.shape[dims[0]], stored_width(weight, dims) if width is None else width)
    if (weight.shape[dims[0]], weight.shape[dims[1]]) == (size[0], size[1] // 2 + 1) and policy in ('bilinear', 'bicubic'):
        return weight
    if stored == tuple(size):
        return weight
    if policy == 'none':
        raise ValueError(
            f'the filter is stored for maps of {stored[0]}x{stored[1]} and not to be resized, got one of {size[0]}x{size[1]}'
        )
    spec = weight.movedim((-1, *dims), (0, -2, -1))  # (2, ..., H, F)
    with without_autocast(weight):
        if policy in ('bilinear', 'bicubic'):
            out = _as_picture(spec, (size[0], size[1] // 2 + 1), policy)
        elif policy == 'kernel':
            out = _same_kernel(spec, stored, size)
        else:
            out = _same_modes(spec, stored, size)
    return out.movedim((0, -2, -1), (-1, *dims))


def stored_width(weight: Tensor, dims: tuple[int, int]) -> int:
    """W of a stored grid: that of a square one where the half width fits, else the even candidate."""
    height, half = weight.shape[dims[0]], weight.shape[dims[1]]
    return height if height // 2 + 1 == half else max(2 * half - 2, 1)


def _as_picture(spec: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    flat = spec.reshape(2, -1, *spec.shape[-2:])
    out = interpolate(flat, size=size, mode=mode, align_corners=True, antialias=False)
    return out.reshape(*spec.shape[:-2], *size)


def _same_kernel(spec: Tensor, stored: tuple[int, int], size: tuple[int, int]) -> Tensor:
    kernel = torch.fft.irfft2(torch.complex(spec[0], spec[1]), s=stored)
    for dim, (old, new) in zip((-2, -1), zip(stored, size)):
        kernel = _pad_or_crop(kernel, dim, old, new)
    out = torch.fft.rfft2(kernel)
    return torch.stack((out.real, out.imag))


def _pad_or_crop(kernel: Tensor, dim: int, old: int, new: int) -> Tensor:
    """A periodic kernel with its origin at index 0: offsets -(k // 2) .. (k - 1) // 2 are kept, k = min(old, new)."""
    keep = min(old, new)
    ahead, behind = (keep + 1) // 2, keep // 2
    zeros = kernel.new_zeros(()).expand([new - keep if d == dim % kernel.ndim else n for d, n in enumerate(kernel.shape)])
    return torch.cat((kernel.narrow(dim, 0, ahead), zeros, kernel.narrow(dim, old - behind, behind)), dim)


def _same_modes(spec: Tensor, stored: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Rows are signed frequencies (an even side's Nyquist row is -side/2), columns 0 .. W // 2."""
    keep = min(stored[0], size[0])
    ahead, behind = (keep + 1) // 2, keep // 2
    columns = min(spec.shape[-1], size[1] // 2 + 1)
    out = spec.new_zeros(*spec.shape[:-2], size[0], size[1] // 2 + 1)
    top = torch.cat((spec[..., :ahead, :columns], out[..., : size[0] - keep, :columns]), -2)
    rows = torch.cat((top, spec[..., stored[0] - behind :, :columns]), -2)
    return torch.cat((rows, out[..., : size[1] // 2 + 1 - columns]), -1)


def resize_tokens(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Position embeddings of a square grid, for a grid of `size` (H, W): bicubic, align_corners=False (GFNet's fine-tuning code).

    Shape:
        `(1, side * side, C)`, row by row, to `(1, H * W, C)`; the same tensor where nothing changes.

    Raises:
        ValueError: the number of tokens is not a square.
    """
    side = isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise ValueError(f'position embeddings must be of a square grid, got {tokens.shape[1]} tokens')
    if (side, side) == tuple(size):
        return tokens
    picture = tokens.transpose(1, 2).unflatten(2, (side, side))
    with without_autocast(tokens):
        return interpolate(picture, size=size, mode='bicubic', align_corners=False, antialias=False).flatten(2).transpose(1, 2)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Autocast off on the device of `x`; a meta device has none."""
    return nullcontext() if x.device.type == 'meta' else torch.autocast(x.device.type, enabled=False)

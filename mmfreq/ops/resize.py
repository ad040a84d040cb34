"""Rules that resize a stored filter, or position embeddings, to the grid of another image size.

| policy | what it preserves | used by |
|---|---|---|
| `bilinear` | the half spectrum as an image, corners aligned | HorNet (published), GFNet-CNN |
| `bicubic` | the same, with a cubic kernel | GFNet, GFNet-H, DFFormer (published) |
| `kernel` | the spatial kernel in pixels: zero-padded or cropped around its center | not published |
| `modes` | the response to each number of cycles per image; new frequencies are zero | not published |
| `none` | nothing is resized: maps of another size raise an error | fixed-size models |

A family's rule is the class attribute `published_resize` of its backbone; the argument `filter_resize` overrides it. The rule is
applied when a file is loaded (`StoredFilter.fit_stored`) and in forward (`StoredFilter.filter_for`), see `mmfreq.layers.filters`.

The published rules treat the spectrum as an image without centering the vertical frequencies, and the published weights were
trained with them. `kernel` and `modes` resize the operator that the filter represents: the imaginary part of the zero and Nyquist
columns, which the inverse transform ignores (see `mmfreq.ops.spectral`), is not preserved.

A filter is a real tensor with (real, imaginary) as its last axis. Its half width F = W // 2 + 1 does not determine W (2F - 2 or
2F - 1); a square grid, W = H, is assumed where it fits.
"""

from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mmfreq.ops import open_size
from mmfreq.ops.autocast import without_autocast
from mmfreq.ops.spectral import irfft2_by_matmul, rfft2_by_matmul

RESIZE_POLICIES = ('bilinear', 'bicubic', 'kernel', 'modes', 'none')


def resize_filter(
    weight: Tensor, size: tuple[int, int], policy: str, dims: tuple[int, int] = (-3, -2), width: int | None = None
) -> Tensor:
    """Resize a filter stored for one grid to maps of `size`.

    Args:
        weight: real filter, (real, imaginary) last, H and F at `dims`; at most one more axis.
        size: (H, W) of the maps to filter.
        policy: one of `RESIZE_POLICIES`.
        dims: positions of H and F in `weight`.
        width: W of the stored grid; by default H if H // 2 + 1 is F, else 2F - 2.

    Shape:
        `(..., H0, F0, ..., 2)` to `(..., H, W // 2 + 1, ..., 2)`; returns `weight` itself if nothing changes. For an open
        size (`mmfreq.ops.open_size`) the result is computed by matrix products, at least in float32.

    Raises:
        ValueError: unknown policy, or another size with policy 'none'.
    """
    if policy not in RESIZE_POLICIES:
        raise ValueError(f"filter resize policy '{policy}' is unknown; choose one of {', '.join(RESIZE_POLICIES)}")
    h_dim, f_dim = (d % weight.ndim for d in dims)
    stored_half = (weight.shape[h_dim], weight.shape[f_dim])
    half = (size[0], size[1] // 2 + 1)
    stored = (stored_half[0], stored_width(*stored_half) if width is None else width)
    if open_size.is_open(*size):
        return _resize_to_open(weight, stored, size, policy, (h_dim, f_dim))
    if stored == tuple(size) or (stored_half == half and policy in ('bilinear', 'bicubic')):
        return weight
    if policy == 'none':
        raise ValueError(
            f"A filter with filter_resize='none' takes maps of {stored[0]}x{stored[1]} only, got {size[0]}x{size[1]}. "
            f'Use images of the size that the model was built or optimized for, or another filter_resize.'
        )
    spec = weight.movedim((-1, h_dim, f_dim), (0, -2, -1))  # (2, ..., H, F)
    with without_autocast(weight):
        if policy == 'kernel':
            out = _resize_kernel(spec, stored, size)
        elif policy == 'modes':
            out = _resize_modes(spec, stored, size)
        else:
            out = interpolate(spec.reshape(2, -1, *stored_half), size=half, mode=policy, align_corners=True, antialias=False)
            out = out.reshape(*spec.shape[:-2], *half)
    return out.movedim((0, -2, -1), (-1, h_dim, f_dim))


def _resize_to_open(weight: Tensor, stored: tuple[int, int], size: tuple[int, int], policy: str, dims: tuple[int, int]) -> Tensor:
    """`resize_filter` for an open size; each policy is a linear map of the rows and of the columns."""
    if policy == 'none':
        raise ValueError(
            f"A filter with filter_resize='none' takes maps of {stored[0]}x{stored[1]} only, but the size of the images is open. "
            f'Export for one size, or use another filter_resize.'
        )
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    half = size[1] // 2 + 1
    to = (dtype, weight.device)
    with without_autocast(weight):
        spec = weight.to(dtype).movedim((-1, *dims), (0, -2, -1))  # (2, ..., H, F)
        if policy == 'kernel':
            kernel = irfft2_by_matmul(spec[0], spec[1], stored[1])
            rows, columns = (open_size.selection(m, n, *to) for m, n in zip(stored, size))
            # the transforms are orthonormal, those of the policy keep the values of the kernel
            gain = (open_size.length(size[0], *to) * open_size.length(size[1], *to) / (stored[0] * stored[1])).sqrt()
            out = torch.stack(rfft2_by_matmul(rows @ kernel @ columns.t())) * gain
        else:
            if policy == 'modes':
                rows, columns = open_size.selection(stored[0], size[0], *to), open_size.first(spec.shape[-1], half, *to)
            else:
                sides = zip(spec.shape[-2:], (size[0], half))
                rows, columns = (open_size.interpolation(m, n, policy, True, *to) for m, n in sides)
            out = rows @ spec @ columns.t()
    return out.movedim((0, -2, -1), (-1, *dims))


def stored_width(height: int, half: int) -> int:
    """W of a stored grid: that of a square one if its half width is `half`, else the even candidate."""
    return height if height // 2 + 1 == half else max(2 * half - 2, 1)


def _resize_kernel(spec: Tensor, stored: tuple[int, int], size: tuple[int, int]) -> Tensor:
    kernel = torch.fft.irfft2(torch.complex(spec[0], spec[1]), s=stored)
    for dim, (old, new) in zip((-2, -1), zip(stored, size)):
        kernel = _pad_or_crop(kernel, dim, old, new)
    out = torch.fft.rfft2(kernel)
    return torch.stack((out.real, out.imag))


def _pad_or_crop(kernel: Tensor, dim: int, old: int, new: int) -> Tensor:
    """Resize a periodic kernel with its origin at index 0: offsets -(k // 2) .. (k - 1) // 2 stay, k = min(old, new)."""
    keep = min(old, new)
    ahead, behind = (keep + 1) // 2, keep // 2
    zeros = kernel.new_zeros(()).expand([new - keep if d == dim % kernel.ndim else n for d, n in enumerate(kernel.shape)])
    return torch.cat((kernel.narrow(dim, 0, ahead), zeros, kernel.narrow(dim, old - behind, behind)), dim)


def _resize_modes(spec: Tensor, stored: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Rows are signed frequencies (the Nyquist row of an even side is -side/2), columns 0 .. W // 2."""
    keep = min(stored[0], size[0])
    ahead, behind = (keep + 1) // 2, keep // 2
    columns = min(spec.shape[-1], size[1] // 2 + 1)
    out = spec.new_zeros(*spec.shape[:-2], size[0], size[1] // 2 + 1)
    top = torch.cat((spec[..., :ahead, :columns], out[..., : size[0] - keep, :columns]), -2)
    rows = torch.cat((top, spec[..., stored[0] - behind :, :columns]), -2)
    return torch.cat((rows, out[..., : size[1] // 2 + 1 - columns]), -1)


def resize_tokens(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize position embeddings of a square grid to `size` (H, W): bicubic, align_corners=False (GFNet's fine-tuning code).

    Shape:
        `(1, side * side, C)`, row by row, to `(1, H * W, C)`; returns `tokens` itself if nothing changes.

    Raises:
        ValueError: the number of tokens is not a square.
    """
    side = isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise ValueError(f'position embeddings must belong to a square grid, got {tokens.shape[1]} tokens')
    if open_size.is_open(*size):
        return _resize_tokens_to_open(tokens, side, size)
    if (side, side) == tuple(size):
        return tokens
    grid = tokens.transpose(1, 2).unflatten(2, (side, side))
    with without_autocast(tokens):
        return interpolate(grid, size=size, mode='bicubic', align_corners=False, antialias=False).flatten(2).transpose(1, 2)


def _resize_tokens_to_open(tokens: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """`resize_tokens` for an open size, by matrix products."""
    dtype = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    rows, columns = (open_size.interpolation(side, n, 'bicubic', False, dtype, tokens.device) for n in size)
    with without_autocast(tokens):
        grid = tokens[0].to(dtype).unflatten(0, (side, side))
        return (columns @ (rows @ grid.flatten(1)).unflatten(1, (side, -1))).flatten(0, 1).unsqueeze(0).to(tokens.dtype)

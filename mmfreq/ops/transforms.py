"""To the half spectrum of a real map and back, with one meaning of the inverse on every device.

A product with a learned filter is not Hermitian in its zero column and, for even W, in its Nyquist column. The inverse here is:
complex inverse over H, the imaginary part of those two columns dropped, real inverse over W. This is what `torch.fft.irfft2`
computes on a CPU. Other devices may read those columns in another way; there the two columns are replaced by their Hermitian part,
which gives the same and has one reading only.

Legend: H W grid, F = W // 2 + 1 half width. `dims` are the positions of H and W in the tensor.
"""

import torch
from torch import Tensor


def half_width(width: int) -> int:
    """Columns F of the half spectrum of a grid `width` columns wide."""
    return width // 2 + 1


def rfft2(x: Tensor, dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """Orthonormal half spectrum of a real float32 or float64 tensor.

    Shape:
        `(..., H, W)` at `dims` to complex `(..., H, F)`, DC at index 0, not shifted.
    """
    return torch.fft.rfft2(x, s=(x.shape[dims[0]], x.shape[dims[1]]), dim=dims, norm='ortho')


def irfft2(spec: Tensor, size: tuple[int, int], dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """Back to the `(H, W)` grid, with the module's one meaning for spectra that are not Hermitian.

    Shape:
        Complex `(..., H, F)` at `dims` to real `(..., H, W)`.
    """
    if spec.device.type != 'cpu':
        spec = hermitian_columns(spec, size[1], dims)
    return torch.fft.irfft2(spec, s=size, dim=dims, norm='ortho')


def hermitian_columns(spec: Tensor, width: int, dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """`spec` with its self-conjugate columns c(k) replaced by (c(k) + conj c(-k)) / 2, k the row's frequency."""
    step = width // 2 if width > 1 and width % 2 == 0 else spec.shape[dims[1]]  # the zero column, and Nyquist for even W
    at = [slice(None)] * spec.ndim
    at[dims[1]] = slice(None, None, step)
    found = spec[tuple(at)]
    out = spec.clone()
    out[tuple(at)] = (found + found.flip(dims[0]).roll(1, dims[0]).conj()) / 2
    return out

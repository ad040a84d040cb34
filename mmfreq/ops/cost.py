"""Multiply-adds of the spectral layers, by formula, for one image.

A multiply-add (MAC) is one real product with its addition; single additions are not counted. The papers of all four families call
MACs "FLOPs".

A radix-2 FFT of n complex numbers has n / 2 log2 n complex products of four real ones each: 2 n log2 n MACs, and half of that for
real input. A real two-dimensional transform has H real rows and F complex columns. With F = W / 2 this would be H W log2(H W) per
channel, the count of GFNet's author (issue 12 of raoyongming/GFNet); FFT libraries compute F = W // 2 + 1 columns. For sides that
are not powers of two the formula is a lower bound.

| count | transform of a channel, N = H W | product with the filter |
|---|---|---|
| this module, 'fft' | `rfft2_cost`: H W log2 W + 2 F H log2 H | 4 H F |
| this module, 'matmul' | `matmul_dft_cost`: 2 H F (W + 2 H) | 4 H F |
| GFNet's and HorNet's scripts | `published_fft_cost`: N ceil(log2 N) | nothing |
| AFFNet's profiler | 5 N int(ln N) for both transforms | nothing |
| DFFormer, mmpretrain | nothing | nothing |

Legend: H W grid, F = W // 2 + 1, C channels, M mixed channels, N filters, K blocks.
"""

from math import ceil, log, log2

from mmfreq.ops.spectral import half_width

COMPLEX_PRODUCT = 4  # MACs


def fft_cost(length: int) -> float:
    """One complex transform of `length` numbers, forward or inverse."""
    return 2 * length * log2(length)


def rfft_cost(length: int) -> float:
    """One transform of `length` real numbers to their half spectrum, or its inverse."""
    return length * log2(length)


def rfft2_cost(height: int, width: int) -> float:
    """One two-dimensional transform of a real H x W map (real over W, complex over H), or its inverse."""
    return height * rfft_cost(width) + half_width(width) * fft_cost(height)


def matmul_dft_cost(height: int, width: int) -> int:
    """The same transform as real matrix products: a (W, F) basis twice, an (H, H) basis four times."""
    half = half_width(width)
    return 2 * height * width * half + 4 * height * height * half


def transform_cost(height: int, width: int, backend: str = 'fft') -> float:
    """One two-dimensional transform of one channel with a backend of `mmfreq.ops.spectral`."""
    return matmul_dft_cost(height, width) if backend == 'matmul' else rfft2_cost(height, width)


def filter_product_cost(height: int, width: int) -> int:
    """The product of one channel's half spectrum with a complex filter."""
    return COMPLEX_PRODUCT * height * half_width(width)


def global_filter_cost(channels: int, height: int, width: int, backend: str = 'fft') -> float:
    """The global filter of GFNet and HorNet: transform, product, inverse transform, for all channels."""
    return channels * (2 * transform_cost(height, width, backend) + filter_product_cost(height, width))


def routing_cost(channels: int, hidden: int, filters: int, mixed: int) -> int:
    """DFFormer's routing MLP, C to `hidden` to N M, on the spatial mean."""
    return channels * hidden + hidden * filters * mixed


def filter_mixing_cost(filters: int, mixed: int, height: int, width: int) -> int:
    """Mixing N stored complex filters into one for each of M channels, with real coefficients."""
    return 2 * filters * mixed * height * half_width(width)


def dynamic_filter_cost(
    channels: int, hidden: int, filters: int, mixed: int, height: int, width: int, backend: str = 'fft'
) -> float:
    """DFFormer's mixer without activations: linear C to M, routing, mixing of filters, filtering of M channels, linear M to C."""
    linear = 2 * channels * mixed * height * width
    routing = routing_cost(channels, hidden, filters, mixed) + filter_mixing_cost(filters, mixed, height, width)
    return linear + routing + global_filter_cost(mixed, height, width, backend)


def block_mlp_cost(channels: int, blocks: int, height: int, width: int) -> int:
    """Two block-diagonal complex linear layers (C/K to C/K in each of K blocks) at each of the H F frequencies."""
    return 2 * COMPLEX_PRODUCT * blocks * (channels // blocks) ** 2 * height * half_width(width)


def published_fft_cost(height: int, width: int, channels: int = 1) -> int:
    """One transform as counted by the scripts of GFNet's and HorNet's authors: N C ceil(log2 N), N = H W.

    Two errors of these scripts are not reproduced: they take channels-first tensors for channels-last, and count an inverse
    transform by the shape of the half spectrum.
    """
    grid = height * width
    return grid * channels * ceil(log2(grid))


def published_adaptive_filter_cost(channels: int, blocks: int, height: int, width: int) -> int:
    """AFFNet's mixer as counted by its profiler: 4 C^2 / K and 5 int(ln N) C at each of the N = H W positions.

    Source: `profile_module` of `AFNO2D_channelfirst` in microsoft/TokenMixers.
    """
    grid = height * width
    return (channels * channels * 4 // blocks) * grid + 5 * grid * int(log(grid)) * channels

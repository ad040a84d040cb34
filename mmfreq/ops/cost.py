"""Operation counts of the spectral layers, in real multiply-adds, by formula.

A multiply-add (MAC) is one product and the addition that goes with it; additions alone count nothing. "FLOPs" in the papers of all
four families are MACs in this sense.

The transforms. A radix-2 FFT of n complex numbers has n / 2 log2 n complex products; a real input halves them; one complex product
is four real ones. So a complex transform costs 2 n log2 n, a real one n log2 n, and a real two-dimensional one H real rows and F
complex columns. Were F exactly W / 2 this would be H W log2(H W) per channel, or HW/4 log2(HW) complex products, as GFNet's author
derives it (issue 12 of raoyongming/GFNet); the libraries do not pack the two self-conjugate columns into one, hence F = W // 2 + 1.
Sides that are not powers of two get the same formula, which is then a lower bound.

| count | transform of a channel, N = H W | product with the filter |
|---|---|---|
| here, 'fft' | `rfft2_cost`: H W log2 W + 2 F H log2 H | 4 H F |
| here, 'matmul' | `matmul_dft_cost`: 2 H F (W + 2 H) | 4 H F |
| GFNet's and HorNet's scripts | `published_fft_cost`: N ceil(log2 N) | nothing |
| AFFNet's profiler | 5 N int(ln N) for both transforms | nothing |
| DFFormer, mmpretrain | nothing | nothing |

Legend: H W grid, F = W // 2 + 1, C channels, M mixed channels, N filters, K blocks. Counts are for one image.
"""

from math import ceil, log, log2

from mmfreq.ops.spectral import half_width

COMPLEX_PRODUCT = 4  # real multiply-adds


def fft_cost(length: int) -> float:
    """One complex transform of `length` numbers, forward or back."""
    return 2 * length * log2(length)


def rfft_cost(length: int) -> float:
    """One transform of `length` real numbers to their half spectrum, or back."""
    return length * log2(length)


def rfft2_cost(height: int, width: int) -> float:
    """One two-dimensional transform of a real H x W map to its half spectrum, or back: real over W, complex over H."""
    return height * rfft_cost(width) + half_width(width) * fft_cost(height)


def matmul_dft_cost(height: int, width: int) -> int:
    """The same as real matrix products (`ops/spectral.py`): a (W, F) basis twice, an (H, H) basis four times; either direction."""
    half = half_width(width)
    return 2 * height * width * half + 4 * height * height * half


def transform_cost(height: int, width: int, backend: str = 'fft') -> float:
    """One two-dimensional transform of one channel with a backend of `ops/spectral.py`."""
    return matmul_dft_cost(height, width) if backend == 'matmul' else rfft2_cost(height, width)


def filter_product_cost(height: int, width: int) -> int:
    """The product of one channel's half spectrum with a complex filter."""
    return COMPLEX_PRODUCT * height * half_width(width)


def global_filter_cost(channels: int, height: int, width: int, backend: str = 'fft') -> float:
    """To the spectrum, product, and back, for all channels (GFNet's and HorNet's filter)."""
    return channels * (2 * transform_cost(height, width, backend) + filter_product_cost(height, width))


def routing_cost(channels: int, hidden: int, filters: int, mixed: int) -> int:
    """DFFormer's routing MLP: C to `hidden` to N M, on the spatial mean."""
    return channels * hidden + hidden * filters * mixed


def filter_mixing_cost(filters: int, mixed: int, height: int, width: int) -> int:
    """One complex filter for each of M channels from N stored ones, with real coefficients."""
    return 2 * filters * mixed * height * half_width(width)


def dynamic_filter_cost(
    channels: int, hidden: int, filters: int, mixed: int, height: int, width: int, backend: str = 'fft'
) -> float:
    """DFFormer's mixer: linear C to M, routing, mixing of filters, filtering of M channels, linear M to C; no activations."""
    linear = 2 * channels * mixed * height * width
    routing = routing_cost(channels, hidden, filters, mixed) + filter_mixing_cost(filters, mixed, height, width)
    return linear + routing + global_filter_cost(mixed, height, width, backend)


def block_mlp_cost(channels: int, blocks: int, height: int, width: int) -> int:
    """Two block-diagonal complex linear layers (C/K to C/K in each of K blocks) at each of the H F frequencies."""
    return 2 * COMPLEX_PRODUCT * blocks * (channels // blocks) ** 2 * height * half_width(width)


def adaptive_filter_cost(channels: int, blocks: int, height: int, width: int, backend: str = 'fft') -> float:
    """AFFNet's mixer: to the spectrum, mask, product with it, and back; no activations."""
    return block_mlp_cost(channels, blocks, height, width) + global_filter_cost(channels, height, width, backend)


def published_fft_cost(height: int, width: int, channels: int = 1) -> int:
    """One transform as the scripts of GFNet's and HorNet's authors count it: N C ceil(log2 N), N = H W.

    They read a channels-first tensor as if it were channels-last, and the inverse by the shape of its input, the half spectrum;
    neither is imitated here.
    """
    grid = height * width
    return grid * channels * ceil(log2(grid))


def published_adaptive_filter_cost(channels: int, blocks: int, height: int, width: int) -> int:
    """AFFNet's mixer as its profiler counts it: 4 C^2 / K and 5 int(ln N) C at each of the N = H W positions.

    Source: `profile_module` of `AFNO2D_channelfirst` in microsoft/TokenMixers.
    """
    grid = height * width
    return (channels * channels * 4 // blocks) * grid + 5 * grid * int(log(grid)) * channels

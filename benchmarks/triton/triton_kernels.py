"""Triton kernels of the fused spectral operator: transform, filter and inverse of a map in on-chip memory.

The transform is that of `benchmarks.triton.triton_transforms`. With its real matrix B and the filter as a matrix M the operator is
B' M B. So its adjoint has M', the conjugate filter, and the filter's gradient is the spectrum of the map's gradient times the
conjugate of the map's, slot by slot. In the columns m = 0 and m = W / 2, which the inverse makes real, the filter acts by its
Hermitian part, and the gradient has that symmetry.

Legend: H W grid, h w folded pixel, k m frequency, NH NW folded sides padded, TH TW tile, G tiles of a program. Spatial tiles are
`(G, h, w)`, spectral ones `(G, k, m)`. A program works on several samples in turn.
"""

import triton
import triton.language as tl

from benchmarks.triton.triton_tiles import (
    load_filter,
    load_quarters,
    load_sixteenths,
    places,
    store_filter,
    store_quarters,
    store_sixteenths,
)
from benchmarks.triton.triton_transforms import folded, load_bases, spectra

SIZES = ('batch', 'channels', 'height', 'width', 'samples')  # a compiled kernel does not depend on these values


@triton.jit
def times(a, b, re, im, corner, SIGN: tl.constexpr):
    """The spectrum times a + i b, conjugate for SIGN = -1; two real products where `corner` holds."""
    cross = tl.where(corner, 0.0, b * SIGN)
    return a * re - cross * im, cross * re + tl.where(corner, b, a) * im


@triton.jit
def times_conjugate(re, im, x_re, x_im, corner):
    """A spectrum times the conjugate of another; two real products where `corner` holds."""
    return re * x_re + tl.where(corner, 0.0, im * x_im), tl.where(corner, im * x_im, im * x_re - re * x_im)


@triton.jit
def filter_class(x, weights, bases_h, bases_w, k, m, SIGN: tl.constexpr, PRECISION: tl.constexpr):
    """A class of frequencies of a folded map, filtered."""
    re_1, im_1, re_2, im_2 = spectra(x[0], x[1], x[2], x[3], bases_h, bases_w, k, m, PRECISION)
    corner = (k == 0) & (m == 0)
    re_1, im_1 = times(weights[0], weights[1], re_1, im_1, corner, SIGN)
    re_2, im_2 = times(weights[2], weights[3], re_2, im_2, corner, SIGN)
    return folded(re_1, im_1, re_2, im_2, bases_h, bases_w, k, m, PRECISION)


@triton.jit
def gradient_class(x, grad, weights, sums, bases_h, bases_w, k, m, WITH_X: tl.constexpr, PRECISION: tl.constexpr):
    """Of a class of frequencies: the filter's gradient, added to `sums`, and the folded gradient of the map, if WITH_X."""
    re_1, im_1, re_2, im_2 = spectra(grad[0], grad[1], grad[2], grad[3], bases_h, bases_w, k, m, PRECISION)
    x_re_1, x_im_1, x_re_2, x_im_2 = spectra(x[0], x[1], x[2], x[3], bases_h, bases_w, k, m, PRECISION)
    corner = (k == 0) & (m == 0)
    a_1, b_1 = times_conjugate(re_1, im_1, x_re_1, x_im_1, corner)
    a_2, b_2 = times_conjugate(re_2, im_2, x_re_2, x_im_2, corner)
    if WITH_X:
        re_1, im_1 = times(weights[0], weights[1], re_1, im_1, corner, -1)
        re_2, im_2 = times(weights[2], weights[3], re_2, im_2, corner, -1)
        grad = folded(re_1, im_1, re_2, im_2, bases_h, bases_w, k, m, PRECISION)
    return (sums[0] + a_1, sums[1] + b_1, sums[2] + a_2, sums[3] + b_2), grad


@triton.jit
def store_gradient(weight, sums, parity_k, parity_m, k, m, inside, stride, size):
    """The filter's gradient at a class of frequencies."""
    store_filter(weight, sums[0], sums[1], sums[2], sums[3], k + parity_k, m + parity_m, inside, stride, size)


@triton.jit(do_not_specialize=SIZES)
def filter_kernel(
    x, y, weight, bases_h, bases_w,
    x_b, x_c, x_h, x_w, y_b, y_c, y_h, y_w, w_b, w_c, w_k, w_m, w_part,
    batch, channels, height, width, samples,
    FOLDS: tl.constexpr, PRECISION: tl.constexpr, SIGN: tl.constexpr,
    NH: tl.constexpr, NW: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """The filtered map, by the conjugate filter for SIGN = -1. A program's `samples` have the filter of the first."""
    size, to_x, to_y, to_w = (channels, height, width), (x_c, x_h, x_w), (y_c, y_h, y_w), (w_c, w_k, w_m, w_part)
    first, last = tl.program_id(1) * samples, tl.minimum(tl.program_id(1) * samples + samples, batch)
    channel, h, w, inside = places(channels, height, width, FOLDS, NH, NW, TH, TW, G)
    k, m = h * FOLDS, w * FOLDS
    x, y = x + channel * x_c, y + channel * y_c
    weight = weight + tl.cast(first, tl.int64) * w_b + channel * w_c
    even_h, even_w = load_bases(bases_h, TH, PRECISION), load_bases(bases_w, TW, PRECISION)
    if FOLDS == 1:
        own = load_filter(weight, k, m, inside, to_w, size, True)
        for b in range(first, last):
            at = tl.cast(b, tl.int64)
            parts = load_quarters(x + at * x_b, h, w, inside, to_x, size)
            parts = filter_class(parts, own, even_h, even_w, k, m, SIGN, PRECISION)
            store_quarters(y + at * y_b, parts[0], parts[1], parts[2], parts[3], h, w, inside, to_y, size)
    else:
        odd_h, odd_w = load_bases(bases_h + 2 * TH * TH, TH, PRECISION), load_bases(bases_w + 2 * TW * TW, TW, PRECISION)
        for b in range(first, last):
            at = tl.cast(b, tl.int64)
            both, k_even, m_even, none = load_sixteenths(x + at * x_b, h, w, inside, to_x, size)
            own = load_filter(weight, k, m, inside, to_w, size, True)
            both = filter_class(both, own, even_h, even_w, k, m, SIGN, PRECISION)
            own = load_filter(weight, k, m + 1, inside, to_w, size, False)
            k_even = filter_class(k_even, own, even_h, odd_w, k, m + 1, SIGN, PRECISION)
            own = load_filter(weight, k + 1, m, inside, to_w, size, True)
            m_even = filter_class(m_even, own, odd_h, even_w, k + 1, m, SIGN, PRECISION)
            own = load_filter(weight, k + 1, m + 1, inside, to_w, size, False)
            none = filter_class(none, own, odd_h, odd_w, k + 1, m + 1, SIGN, PRECISION)
            store_sixteenths(y + at * y_b, both, k_even, m_even, none, h, w, inside, to_y, size)


@triton.jit(do_not_specialize=SIZES)
def gradient_kernel(
    x, grad, grad_x, weight, grad_weight, bases_h, bases_w,
    x_b, x_c, x_h, x_w, g_b, g_c, g_h, g_w, y_b, y_c, y_h, y_w, w_b, w_c, w_k, w_m, w_part, v_b, v_c, v_k, v_m, v_part,
    batch, channels, height, width, samples,
    FOLDS: tl.constexpr, PRECISION: tl.constexpr, WITH_X: tl.constexpr,
    NH: tl.constexpr, NW: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """Gradient of the map, if WITH_X, and, summed over a program's `samples`, of the filter; they have the filter of the first."""
    size, to_x, to_g, to_y = (channels, height, width), (x_c, x_h, x_w), (g_c, g_h, g_w), (y_c, y_h, y_w)
    to_w, to_v = (w_c, w_k, w_m, w_part), (v_c, v_k, v_m, v_part)
    first, last = tl.program_id(1) * samples, tl.minimum(tl.program_id(1) * samples + samples, batch)
    channel, h, w, inside = places(channels, height, width, FOLDS, NH, NW, TH, TW, G)
    k, m = h * FOLDS, w * FOLDS
    x, grad, grad_x = x + channel * x_c, grad + channel * g_c, grad_x + channel * y_c
    weight = weight + tl.cast(first, tl.int64) * w_b + channel * w_c
    grad_weight = grad_weight + tl.program_id(1).to(tl.int64) * v_b + channel * v_c
    even_h, even_w = load_bases(bases_h, TH, PRECISION), load_bases(bases_w, TW, PRECISION)
    zero = tl.zeros((G, TH, TW), tl.float32)
    sums = (zero, zero, zero, zero)
    if FOLDS == 1:
        own = load_filter(weight, k, m, inside, to_w, size, True)
        for b in range(first, last):
            at = tl.cast(b, tl.int64)
            parts = load_quarters(x + at * x_b, h, w, inside, to_x, size)
            grads = load_quarters(grad + at * g_b, h, w, inside, to_g, size)
            sums, grads = gradient_class(parts, grads, own, sums, even_h, even_w, k, m, WITH_X, PRECISION)
            if WITH_X:
                store_quarters(grad_x + at * y_b, grads[0], grads[1], grads[2], grads[3], h, w, inside, to_y, size)
        store_gradient(grad_weight, sums, 0, 0, k, m, inside, to_v, size)
    else:
        sums_k_even, sums_m_even, sums_none = sums, sums, sums
        odd_h, odd_w = load_bases(bases_h + 2 * TH * TH, TH, PRECISION), load_bases(bases_w + 2 * TW * TW, TW, PRECISION)
        for b in range(first, last):
            at = tl.cast(b, tl.int64)
            both, k_even, m_even, none = load_sixteenths(x + at * x_b, h, w, inside, to_x, size)
            g_both, g_k_even, g_m_even, g_none = load_sixteenths(grad + at * g_b, h, w, inside, to_g, size)
            own = load_filter(weight, k, m, inside, to_w, size, True)
            sums, g_both = gradient_class(both, g_both, own, sums, even_h, even_w, k, m, WITH_X, PRECISION)
            own = load_filter(weight, k, m + 1, inside, to_w, size, False)
            sums_k_even, g_k_even = gradient_class(k_even, g_k_even, own, sums_k_even, even_h, odd_w, k, m + 1, WITH_X, PRECISION)
            own = load_filter(weight, k + 1, m, inside, to_w, size, True)
            sums_m_even, g_m_even = gradient_class(m_even, g_m_even, own, sums_m_even, odd_h, even_w, k + 1, m, WITH_X, PRECISION)
            own = load_filter(weight, k + 1, m + 1, inside, to_w, size, False)
            sums_none, g_none = gradient_class(none, g_none, own, sums_none, odd_h, odd_w, k + 1, m + 1, WITH_X, PRECISION)
            if WITH_X:
                store_sixteenths(grad_x + at * y_b, g_both, g_k_even, g_m_even, g_none, h, w, inside, to_y, size)
        store_gradient(grad_weight, sums, 0, 0, k, m, inside, to_v, size)
        store_gradient(grad_weight, sums_k_even, 0, 1, k, m, inside, to_v, size)
        store_gradient(grad_weight, sums_m_even, 1, 0, k, m, inside, to_v, size)
        store_gradient(grad_weight, sums_none, 1, 1, k, m, inside, to_v, size)

"""Fold, transform and pair up a tile of maps: the parts of the kernels of `benchmarks.triton.triton_kernels`, in Triton.

The discrete Fourier transform of a side of length N is taken at half-shifted points, `2 pi k (j + 1/2) / N`. The shift multiplies
each frequency by a phase on the way in and by its conjugate on the way out, so a filter does not see it, and it buys this: pixels j
and N - 1 - j mirror each other, their sum meets only cosines, their difference only sines, and both have n = ceil(N / 2) points and
n frequencies. Cosine slot s is frequency s. So is sine slot s, but sine slot 0 is the Nyquist frequency (nothing, for odd N).

So a map is folded into four real quarters (even or odd along H, along W), each goes through two n x n products, and

    X[+k, m] = (p - q) - i (r + t),  X[-k, m] = (p + q) - i (r - t)     (p even-even, q odd-odd, r even-odd, t odd-even)

That is a third of the operations of dense DFT matrices, and no complex number. When 4 divides N, pixels j and n - 1 - j mirror each
other again: sums meet cosines of even and sines of odd frequency, differences the others, and the products halve again.

Legend: h w folded pixel, k m frequency along H and W, TH TW tile, G tiles of a program. Spatial tiles are `(G, h, w)`, spectral
ones `(G, k, m)`.
"""

import triton
import triton.language as tl


@triton.jit
def fold(near, far_w, far_h, far):
    """Even-even, odd-odd, even-odd, odd-even part of a tile and its mirror images along W, H and both."""
    even, odd, even_far, odd_far = near + far_h, near - far_h, far_w + far, far_w - far
    return even + even_far, odd - odd_far, even - even_far, odd + odd_far


@triton.jit
def unfold(ee, oo, eo, oe):
    """The transpose of `fold`."""
    even, odd, even_far, odd_far = ee + eo, oe + oo, ee - eo, oe - oo
    return even + odd, even_far + odd_far, even - odd, even_far - odd_far


@triton.jit
def split(value, HALF: tl.constexpr):
    """A float32 as a sum of two: its first 11 bits, which TensorFloat-32 holds, and the rest; rounded if HALF = 4096, cut if 0."""
    high = ((value.to(tl.int32, bitcast=True) + HALF) & -8192).to(tl.float32, bitcast=True)
    return high, value - high


@triton.jit
def load_basis(at, PRECISION: tl.constexpr):
    """High and low part."""
    value = tl.load(at)
    if PRECISION == 'tf32x3':
        high, low = split(value, 4096)
    else:
        high, low = value, value
    return high, low


@triton.jit
def load_bases(bases, T: tl.constexpr, PRECISION: tl.constexpr):
    """Cosines and sines `(slot, pixel)`, then `(pixel, slot)`; columns in the order of `turn`."""
    row, col = tl.arange(0, T)[:, None], tl.arange(0, T)[None, :]
    col = col // 8 * 8 + col % 4 * 2 + col % 8 // 4
    there, back = bases + col * T + row, bases + row * T + col
    return (
        load_basis(there, PRECISION),
        load_basis(there + T * T, PRECISION),
        load_basis(back, PRECISION),
        load_basis(back + T * T, PRECISION),
    )


@triton.jit
def turn(tile, basis, PRECISION: tl.constexpr):
    """Transform along the last axis, which then comes first: `(G, a, b)` to `(G, b, a)`.

    A tensor core leaves columns 2 i and 2 i + 1 of a result with one thread, and wants rows i and i + 4 of the next operand there.
    With each eight in the order 0 2 4 6 1 3 5 7, and the tiles of a program next to each other by eights, a result turned over is
    an operand where it lies: nothing moves between threads.
    """
    G: tl.constexpr = tile.shape[0]
    A: tl.constexpr = tile.shape[1]
    B: tl.constexpr = tile.shape[2]
    wide = tl.permute(tl.reshape(tile, (G, A // 8, 8, B // 8, 4, 2)), (3, 5, 4, 1, 0, 2))
    wide = tl.reshape(wide, (B, A * G))
    if PRECISION == 'tf32x3':
        high, low = split(wide, 0)
        out = tl.dot(basis[0], low, input_precision='tf32')
        out = tl.dot(basis[1], high, out, input_precision='tf32')
        out = tl.dot(basis[0], high, out, input_precision='tf32')
    else:
        out = tl.dot(basis[0], wide, input_precision=PRECISION)
    return tl.reshape(tl.permute(tl.reshape(out, (B, A // 8, G, 8)), (2, 0, 1, 3)), (G, B, A))


@triton.jit
def to_pairs(p, q, r, t, k, m):
    """Two complex spectra, (re, im, re, im), each up to a phase: X[k, m] and X[-k, m] for k, m > 0.

    For k = 0 the sine slots are of k = H / 2, and the second is X[H/2, m]. For m = 0 they are of m = W / 2, and the two are X[k, 0]
    and X[k, W/2], whose mirror images are the conjugates. For k = m = 0 the four real numbers are X[0, 0], X[H/2, 0], X[H/2, W/2]
    and X[0, W/2].
    """
    edge = (k == 0) | (m == 0)
    re_1, re_2 = tl.where(edge, p, p - q), tl.where(edge, q, p + q)
    im_1 = tl.where(m == 0, -t, tl.where(k == 0, -r, -(r + t)))
    im_2 = tl.where(m == 0, r, tl.where(k == 0, t, t - r))
    return re_1, im_1, re_2, im_2


@triton.jit
def from_pairs(re_1, im_1, re_2, im_2, k, m):
    """The transpose of `to_pairs`."""
    edge = (k == 0) | (m == 0)
    p, q = tl.where(edge, re_1, re_1 + re_2), tl.where(edge, re_2, re_2 - re_1)
    r = tl.where(m == 0, im_2, tl.where(k == 0, -im_1, -(im_1 + im_2)))
    t = tl.where(m == 0, -im_1, tl.where(k == 0, im_2, im_2 - im_1))
    return p, q, r, t


@triton.jit
def spectra(ee, oo, eo, oe, bases_h, bases_w, k, m, PRECISION: tl.constexpr):
    """The two spectra of a folded map."""
    p = turn(turn(ee, bases_w[0], PRECISION), bases_h[0], PRECISION)
    q = turn(turn(oo, bases_w[1], PRECISION), bases_h[1], PRECISION)
    r = turn(turn(eo, bases_w[1], PRECISION), bases_h[0], PRECISION)
    t = turn(turn(oe, bases_w[0], PRECISION), bases_h[1], PRECISION)
    return to_pairs(p, q, r, t, k, m)


@triton.jit
def folded(re_1, im_1, re_2, im_2, bases_h, bases_w, k, m, PRECISION: tl.constexpr):
    """The transpose of `spectra`."""
    p, q, r, t = from_pairs(re_1, im_1, re_2, im_2, k, m)
    ee = turn(turn(p, bases_w[2], PRECISION), bases_h[2], PRECISION)
    oo = turn(turn(q, bases_w[3], PRECISION), bases_h[3], PRECISION)
    eo = turn(turn(r, bases_w[3], PRECISION), bases_h[2], PRECISION)
    oe = turn(turn(t, bases_w[2], PRECISION), bases_h[3], PRECISION)
    return ee, oo, eo, oe

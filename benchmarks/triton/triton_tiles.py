"""Tiles of maps and filters from and to memory, in Triton: the parts of `benchmarks.triton.triton_kernels` that know of addresses.

Sides are padded to powers of two. When maps are small, a tile of TH x TW slots holds TH / NH times TW / NW of them side by side,
kept apart by block-diagonal bases. A program works on G tiles at once.

Legend: H W grid, h w folded pixel, k m frequency, NH NW folded sides padded, TH TW tile, G tiles of a program. Spatial tiles are
`(G, h, w)`, spectral ones `(G, k, m)`. Strides are `(channel, h, w)` or `(channel, k, m, part)`, sizes `(channels, H, W)`.
"""

import triton
import triton.language as tl

from benchmarks.triton.triton_transforms import fold, unfold


@triton.jit
def places(
    channels, height, width,
    FOLDS: tl.constexpr, NH: tl.constexpr, NW: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """Channel and place along H and W, folded pixel or slot, of every place of a program's tiles; and which hold any."""
    at_h, at_w = tl.arange(0, TH)[None, :, None], tl.arange(0, TW)[None, None, :]
    part = (at_h // NH) * (TW // NW) + at_w // NW
    first = tl.program_id(0) * (G * (TH // NH) * (TW // NW))
    channel, at_h, at_w = first + part * G + tl.arange(0, G)[:, None, None], at_h % NH, at_w % NW
    inside = (channel < channels) & (at_h < (height + 1) // 2 // FOLDS) & (at_w < (width + 1) // 2 // FOLDS)
    return channel, at_h, at_w, inside


@triton.jit
def corners(h, w, inside, stride, size):
    """Offsets and masks of the pixels (h, w) and their mirror images; the middle of an odd side is its own, and stands once."""
    near_h, far_h = h * stride[1], (size[1] - 1 - h) * stride[1]
    near_w, far_w = w * stride[2], (size[2] - 1 - w) * stride[2]
    has_h, has_w = inside & (h < size[1] // 2), inside & (w < size[2] // 2)
    return (near_h + near_w, near_h + far_w, far_h + near_w, far_h + far_w), (inside, has_w, has_h, has_h & has_w)


@triton.jit
def load_quarters(x, h, w, inside, stride, size):
    """The map folded once, float32."""
    at, has = corners(h, w, inside, stride, size)
    near = tl.load(x + at[0], mask=has[0], other=0.0).to(tl.float32)
    far_w = tl.load(x + at[1], mask=has[1], other=0.0).to(tl.float32)
    far_h = tl.load(x + at[2], mask=has[2], other=0.0).to(tl.float32)
    far = tl.load(x + at[3], mask=has[3], other=0.0).to(tl.float32)
    return fold(near, far_w, far_h, far)


@triton.jit
def store_quarters(y, ee, oo, eo, oe, h, w, inside, stride, size):
    """The transpose of `load_quarters`."""
    at, has = corners(h, w, inside, stride, size)
    near, far_w, far_h, far = unfold(ee, oo, eo, oe)
    tl.store(y + at[0], near.to(y.dtype.element_ty), mask=has[0])
    tl.store(y + at[1], far_w.to(y.dtype.element_ty), mask=has[1])
    tl.store(y + at[2], far_h.to(y.dtype.element_ty), mask=has[2])
    tl.store(y + at[3], far.to(y.dtype.element_ty), mask=has[3])


@triton.jit
def load_sixteenths(x, h, w, inside, stride, size):
    """The map folded twice, as inputs of the four classes of frequencies: k and m even, k even, m even, neither."""
    far_h, far_w = size[1] // 2 - 1 - h, size[2] // 2 - 1 - w
    a, b = load_quarters(x, h, w, inside, stride, size), load_quarters(x, h, far_w, inside, stride, size)
    c, d = load_quarters(x, far_h, w, inside, stride, size), load_quarters(x, far_h, far_w, inside, stride, size)
    ee, oo = fold(a[0], b[0], c[0], d[0]), fold(a[1], b[1], c[1], d[1])
    eo, oe = fold(a[2], b[2], c[2], d[2]), fold(a[3], b[3], c[3], d[3])
    return (
        (ee[0], oo[1], eo[2], oe[3]),
        (ee[2], oo[3], eo[0], oe[1]),
        (ee[3], oo[2], eo[1], oe[0]),
        (ee[1], oo[0], eo[3], oe[2]),
    )


@triton.jit
def store_sixteenths(y, both, k_even, m_even, none, h, w, inside, stride, size):
    """The transpose of `load_sixteenths`."""
    far_h, far_w = size[1] // 2 - 1 - h, size[2] // 2 - 1 - w
    ee = unfold(both[0], none[0], k_even[0], m_even[0])
    oo = unfold(none[1], both[1], m_even[1], k_even[1])
    eo = unfold(k_even[2], m_even[2], both[2], none[2])
    oe = unfold(m_even[3], k_even[3], none[3], both[3])
    store_quarters(y, ee[0], oo[0], eo[0], oe[0], h, w, inside, stride, size)
    store_quarters(y, ee[1], oo[1], eo[1], oe[1], h, far_w, inside, stride, size)
    store_quarters(y, ee[2], oo[2], eo[2], oe[2], far_h, w, inside, stride, size)
    store_quarters(y, ee[3], oo[3], eo[3], oe[3], far_h, far_w, inside, stride, size)


@triton.jit
def filter_places(k, m, inside, stride, size):
    """Offsets and masks of the filters of the two spectra, and of those of their mirror images, which only m = 0 needs."""
    has_h, has_w = inside & (k >= size[1] % 2), inside & (m >= size[2] % 2)  # an odd side has no Nyquist frequency
    minus_k = tl.where(k == 0, size[1] // 2, size[1] - k)
    nyquist = (size[2] // 2) * stride[2]
    own_1, mirror_1 = k * stride[1] + m * stride[2], minus_k * stride[1]
    own_2 = tl.where((m == 0) & (k > 0), k, minus_k) * stride[1] + tl.where(m == 0, nyquist, m * stride[2])
    mirror_2 = tl.where(k == 0, 0, minus_k) * stride[1] + nyquist
    return (own_1, mirror_1, own_2, mirror_2), (inside, has_h & (m == 0), has_h & has_w, has_w & (m == 0))


@triton.jit
def load_complex(weight, at, has, part):
    """Real and imaginary part."""
    re = tl.load(weight + at, mask=has, other=0.0).to(tl.float32)
    return re, tl.load(weight + at + part, mask=has, other=0.0).to(tl.float32)


@triton.jit
def store_complex(weight, re, im, at, has, part):
    """Real and imaginary part."""
    tl.store(weight + at, re, mask=has)
    tl.store(weight + at + part, im, mask=has)


@triton.jit
def scale_of(k, m, size):
    """Scale of the two orthonormal transforms, times the number of mirror images that a slot represents."""
    return tl.where((k == 0) & (m == 0), 1.0, 2.0) / (size[1] * size[2])


@triton.jit
def load_filter(weight, k, m, inside, stride, size, COLUMNS: tl.constexpr):
    """Filters of the two spectra, (re, im, re, im), scaled; at k = m = 0 of the four frequencies, real. COLUMNS: some m are 0."""
    at, has = filter_places(k, m, inside, stride, size)
    re_1, im_1 = load_complex(weight, at[0], has[0], stride[3])
    re_2, im_2 = load_complex(weight, at[2], has[2], stride[3])
    scale = scale_of(k, m, size)
    if COLUMNS:
        mirror_re_1, mirror_im_1 = load_complex(weight, at[1], has[1], stride[3])
        mirror_re_2, mirror_im_2 = load_complex(weight, at[3], has[3], stride[3])
        column, corner = (m == 0) & (k > 0), (m == 0) & (k == 0)
        re_1, im_1 = tl.where(column, (re_1 + mirror_re_1) / 2, re_1), tl.where(column, (im_1 - mirror_im_1) / 2, im_1)
        re_2, im_2 = tl.where(column, (re_2 + mirror_re_2) / 2, re_2), tl.where(column, (im_2 - mirror_im_2) / 2, im_2)
        im_1, im_2 = tl.where(corner, mirror_re_1, im_1), tl.where(corner, mirror_re_2, im_2)
    return re_1 * scale, im_1 * scale, re_2 * scale, im_2 * scale


@triton.jit
def store_filter(weight, re_1, im_1, re_2, im_2, k, m, inside, stride, size):
    """The transpose of `load_filter`; every entry of the filter is written once."""
    at, has = filter_places(k, m, inside, stride, size)
    corner = (k == 0) & (m == 0)
    scale = scale_of(k, m, size) * tl.where((m == 0) & (k > 0), 0.5, 1.0)
    re_1, im_1, re_2, im_2 = re_1 * scale, im_1 * scale, re_2 * scale, im_2 * scale
    store_complex(weight, re_1, tl.where(corner, 0.0, im_1), at[0], has[0], stride[3])
    store_complex(weight, tl.where(corner, im_1, re_1), tl.where(corner, 0.0, -im_1), at[1], has[1], stride[3])
    store_complex(weight, re_2, tl.where(corner, 0.0, im_2), at[2], has[2], stride[3])
    store_complex(weight, tl.where(corner, im_2, re_2), tl.where(corner, 0.0, -im_2), at[3], has[3], stride[3])

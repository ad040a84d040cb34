"""The token mixers beside DynamicFilter in DFFormer's code: separable convolution, global filter, AFNO.

Legend: B batch, C channels, H W grid, M = 2C mixed channels, h w stored grid, F = w // 2 + 1, K blocks. Maps are channels-last.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mmfreq.layers import StarReLU, StoredFilter
from mmfreq.layers.eval_cache import CachingModule, EvalCache
from mmfreq.layers.fused import depthwise, fusable, linear_weights, norm_of
from mmfreq.layers.layout import to_bchw, to_bhwc
from mmfreq.ops import apply_filter, block_mlp, map_spectrum
from mmfreq.ops.norm_mlp import norm_linear

EXPANSION = 2  # M / C
AFNO_BLOCKS = 8
AFNO_THRESHOLD = 0.01


class SepConv(CachingModule):
    """Linear to M, activation, depth-wise 7x7, linear back (inverted separable convolution of MobileNetV2, as in ConvFormer).

    Args:
        channels: C.
        act: makes the activation.

    Shape:
        `(B, H, W, C)` to the same.
    """

    def __init__(self, channels: int, act: Callable[[], nn.Module] = StarReLU):
        super().__init__()
        mixed = EXPANSION * channels
        self.pwconv1 = nn.Linear(channels, mixed, bias=False)
        self.act1 = act()
        self.dwconv = nn.Conv2d(mixed, mixed, 7, padding=3, groups=mixed, bias=False)
        self.pwconv2 = nn.Linear(mixed, channels, bias=False)
        self._weights = EvalCache()

    def forward(self, x: Tensor) -> Tensor:
        return self.mix_normed(x)

    def mix_normed(self, x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """`self(norm(x))`."""
        if fusable(self.pwconv1, *(norm,) * (norm is not None)):
            weights = [linear_weights(self.pwconv1, x, self._weights)]
            (y,) = norm_linear(x, (None, None, None) if norm is None else norm_of(norm), weights)
        else:
            y = self.pwconv1(x if norm is None else norm(x))
        y = to_bchw(self.act1(y))
        y = depthwise(self.dwconv, y, self.dwconv.weight, self.dwconv.bias) if fusable(self.dwconv) else self.dwconv(y)
        return self.pwconv2(to_bhwc(y))


class GlobalFilterMixer(StoredFilter):
    """Linear to M, activation, one learned filter per channel, linear back (GFFormer).

    Args:
        channels: C.
        grid, filter_resize, spectral: as in `StoredFilter`.
        act: makes the activation.

    Shape:
        `(B, H, W, C)` to the same; the filter is `(h, F, M, 2)`.
    """

    stored_name = 'complex_weights'

    def __init__(
        self,
        channels: int,
        grid: int | tuple[int, int],
        filter_resize: str = 'bicubic',
        spectral: str = 'auto',
        act: Callable[[], nn.Module] = StarReLU,
    ):
        mixed = EXPANSION * channels
        super().__init__(mixed, grid, filter_resize, spectral, grid_first=True)
        self.pwconv1 = nn.Linear(channels, mixed, bias=False)
        self.act1 = act()
        self.pwconv2 = nn.Linear(mixed, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.pwconv1(x))
        return self.pwconv2(apply_filter(y, self.filter_for(tuple(x.shape[1:3])), (1, 2), self.spectral))


class AFNOMixer(nn.Module):
    """Linear to M, activation, a block-diagonal complex network on the spectrum plus a shortcut, linear back (AFNO ablation).

    The network is that of "Adaptive Fourier Neural Operators" (Guibas et al., arXiv 2111.13587): ReLU on real and imaginary part
    after its first layer, soft-shrink after the second. Unlike AFFNet's, its output is the new spectrum, not a mask.

    Args:
        channels: C; 2C divisible by 8.
        spectral: backend of `mmfreq.ops.fft`.
        act: makes the activation.

    Shape:
        `(B, H, W, C)` to the same; any grid with the same weights.
    """

    def __init__(self, channels: int, spectral: str = 'auto', act: Callable[[], nn.Module] = StarReLU):
        super().__init__()
        mixed = EXPANSION * channels
        if mixed % AFNO_BLOCKS:
            raise ValueError(f'an AFNO mixer needs {EXPANSION} * channels divisible by {AFNO_BLOCKS}, got {channels} channels')
        self.spectral = spectral
        size = mixed // AFNO_BLOCKS
        self.pwconv1 = nn.Linear(channels, mixed, bias=False)
        self.act1 = act()
        for name, shape in (('w1', (size, size)), ('b1', (size,)), ('w2', (size, size)), ('b2', (size,))):
            self.register_parameter(name, nn.Parameter(0.02 * torch.randn(2, AFNO_BLOCKS, *shape)))
        self.pwconv2 = nn.Linear(mixed, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.pwconv1(x))
        mixed = map_spectrum(to_bchw(y), self.network, backend=self.spectral)
        return self.pwconv2(y + to_bhwc(mixed))

    def network(self, re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
        """The new spectrum; two of `(B, M, H, W // 2 + 1)`."""
        first, second = ((w.to(re.dtype), b.to(re.dtype)) for w, b in ((self.w1, self.b1), (self.w2, self.b2)))
        return block_mlp(re, im, first, second, relu, AFNO_THRESHOLD)

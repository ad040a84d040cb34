"""Token mixers that work in the frequency domain.

Legend: B batch, C channels, H W grid of the map, h w stored grid, F = w // 2 + 1 half width, N filters, M mixed channels, K blocks.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from mmfreq.layers.activation import StarReLU
from mmfreq.layers.eval_cache import EvalCache
from mmfreq.layers.fused import fusable, linear_weights, norm_of
from mmfreq.layers.layout import to_bchw, to_bhwc
from mmfreq.layers.mlp import Mlp
from mmfreq.layers.stored_filter import StoredFilter, choose
from mmfreq.ops import SPECTRAL_BACKENDS, apply_filter, apply_mixture, block_mlp, map_spectrum
from mmfreq.ops.activation import squared_relu
from mmfreq.ops.fusing import may_fuse, pieces, wants_gradient
from mmfreq.ops.norm_mlp import linear_of_bchw, norm_linear


class GlobalFilter(StoredFilter):
    """One learned transfer function per channel: a circular convolution as large as the map (GFNet, section 3.2).

    Args:
        channels: C.
        grid, filter_resize, spectral: as in `StoredFilter`.
        channels_last: the map is BHWC and the parameter `(h, F, C, 2)`, as GFNet has it; else BCHW and `(C, h, F, 2)`, as HorNet.

    Shape:
        `(B, C, H, W)` to the same, or `(B, H, W, C)` to the same; any H and W, any float dtype (float32 inside).
    """

    def __init__(
        self,
        channels: int,
        grid: int | tuple[int, int],
        filter_resize: str = 'bilinear',
        spectral: str = 'auto',
        channels_last: bool = False,
    ):
        super().__init__(channels, grid, filter_resize, spectral, grid_first=channels_last)
        self.map_dims = (1, 2) if channels_last else (2, 3)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[self.map_dims[0]], x.shape[self.map_dims[1]])
        return apply_filter(x, self.filter_for(size), self.map_dims, self.spectral)


class DynamicFilter(StoredFilter):
    """Filters mixed for each sample and channel from a few learned ones (DFFormer, arXiv 2303.03932, section 3).

    A linear layer to M = expansion * C channels and an activation; each channel is filtered by a mixture of the N stored filters,
    whose coefficients are a softmax over the filters of an MLP of the input's spatial mean; a linear layer back to C.

    Args:
        channels: C.
        grid, filter_resize, spectral: as in `StoredFilter`.
        num_filters: N.
        routing_ratio: width of the routing MLP's hidden layer over C.
        expansion: M / C.
        act: makes the activation before the filter; the routing MLP has StarReLU in any case.
        channels_last: the map is BHWC, as DFFormer has it, else BCHW; the parameters are the same.

    Shape:
        `(B, C, H, W)` to the same, or `(B, H, W, C)` to the same; any H and W; the filters are `(h, F, N, 2)`.
    """

    stored_name = 'complex_weights'

    def __init__(
        self,
        channels: int,
        grid: int | tuple[int, int],
        filter_resize: str = 'bicubic',
        spectral: str = 'auto',
        num_filters: int = 4,
        routing_ratio: float = 0.25,
        expansion: int = 2,
        act: Callable[[], nn.Module] = StarReLU,
        channels_last: bool = False,
    ):
        super().__init__(num_filters, grid, filter_resize, spectral, grid_first=True)
        mixed = expansion * channels
        self.channels_last = channels_last
        self.num_filters = num_filters
        self.pwconv1 = nn.Linear(channels, mixed, bias=False)
        self.act1 = act()
        self.reweight = Mlp(channels, int(routing_ratio * channels), num_filters * mixed, act=StarReLU, bias=False)
        self.pwconv2 = nn.Linear(mixed, channels, bias=False)
        self._weights = EvalCache()

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix_normed(x if self.channels_last else to_bhwc(x))
        return y if self.channels_last else to_bchw(y)

    def mix_normed(self, x_bhwc: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
        """`self(norm(x))` on a channels-last map; the filter acts on an NCHW map, straight from the linear layer."""
        fuse = fusable(self.pwconv1, self.pwconv2, *(norm,) * (norm is not None))
        if fuse:
            norm_parts = (None, None, None) if norm is None else norm_of(norm)
            weights = [linear_weights(self.pwconv1, x_bhwc, self._weights)]
            y, mean = norm_linear(x_bhwc, norm_parts, weights, channels_first=True, with_mean=True)
        else:
            x_bhwc = x_bhwc if norm is None else norm(x_bhwc)
            y, mean = to_bchw(self.pwconv1(x_bhwc)), x_bhwc.mean((1, 2))
        routing = self.reweight(mean.to(x_bhwc.dtype)).unflatten(1, (self.num_filters, -1)).softmax(1)  # (B, N, M)
        filters = self.filter_for(tuple(y.shape[2:]))
        if not fuse or not fusable(self.act1):
            return self.pwconv2(to_bhwc(apply_mixture(y, routing, filters, self.spectral, self.act1)))
        (weight, bias), act = linear_weights(self.pwconv2, y, self._weights), self.act1
        if isinstance(act, StarReLU):  # its affine map commutes with the filter: a constant meets the zero frequency alone
            zero = routing.to(filters.dtype).transpose(1, 2) @ filters[0, 0, :, 0]  # (B, M)
            constant = linear(act.bias * zero.to(weight.dtype), weight, bias)
            routing, bias, act = routing * act.scale, constant, squared_relu
        y = apply_mixture(y, routing, filters, self.spectral, act)
        return linear_of_bchw(y, weight, bias)


class AdaptiveFrequencyFilter(nn.Module):
    """A mask computed from the spectrum itself, times the spectrum, plus the input (AFFNet, arXiv 2307.14008, section 3).

    The mask of each frequency is a two-layer block-diagonal complex network of the channels there, SiLU on real and imaginary part
    between the layers, soft-shrink on both at the end. Nothing depends on the grid. The products are of complex numbers written out
    (see `mmfreq.ops.complex`).

    Args:
        channels: C, divisible by `blocks`.
        blocks: K; blocks are contiguous groups of channels.
        threshold: lambda of the soft-shrink.
        spectral: backend of `mmfreq.ops.fft`.
        channels_last: the map is BHWC, else BCHW; the parameters are the same.

    Shape:
        `(B, C, H, W)` to the same, or `(B, H, W, C)` to the same; any H and W; float32 inside.

    Raises:
        ValueError: channels not divisible by blocks.
    """

    def __init__(
        self,
        channels: int,
        blocks: int = 8,
        threshold: float = 0.01,
        spectral: str = 'auto',
        channels_last: bool = False,
    ):
        super().__init__()
        if channels % blocks:
            raise ValueError(f'channels must be divisible by the {blocks} blocks of an adaptive frequency filter, got {channels}')
        self.threshold = threshold
        self.spectral = choose('spectral', spectral, SPECTRAL_BACKENDS)
        self.channels_last = channels_last
        size = channels // blocks
        for name, shape in (('w1', (size, size)), ('b1', (size,)), ('w2', (size, size)), ('b2', (size,))):
            self.register_parameter(name, nn.Parameter(nn.init.normal_(torch.empty(2, blocks, *shape), std=0.02)))

    def forward(self, x: Tensor) -> Tensor:
        x_bchw = to_bchw(x) if self.channels_last else x
        y = self.filtered(x_bchw)
        return to_bhwc(y) if self.channels_last else y

    def filtered(self, x: Tensor) -> Tensor:
        """The map plus its filtered one, NCHW; without gradients a few blocks at a time, which know nothing of each other."""
        blocks, size = self.w1.shape[1:3]
        parts = [slice(0, blocks)]
        if may_fuse() and not wants_gradient(x, *self.parameters()):
            work_bytes = 2 * x[:, :size].numel() * max(x.element_size(), 4)  # spectrum and hidden layer
            parts = pieces(blocks, work_bytes, x.device)
        if len(parts) == 1:
            return x + map_spectrum(x, partial(self.masked, parts[0]), backend=self.spectral)
        out = torch.empty_like(x)
        for part in parts:
            at = slice(part.start * size, part.stop * size)
            y = map_spectrum(x[:, at], partial(self.masked, part), backend=self.spectral)
            torch.add(x[:, at], y, out=out[:, at])
        return out

    def masked(self, blocks: slice, re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
        """The spectrum of these blocks' channels times its mask; two of `(B, C, H, F)`."""
        pairs = ((self.w1, self.b1), (self.w2, self.b2))
        first, second = ((w[:, blocks].to(re.dtype), b[:, blocks].to(re.dtype)) for w, b in pairs)
        act = partial(silu, inplace=not torch.is_grad_enabled())
        mask_re, mask_im = block_mlp(re, im, first, second, act, self.threshold)
        return torch.addcmul(mask_re * re, mask_im, im, value=-1), torch.addcmul(mask_re * im, mask_im, re)

    def extra_repr(self) -> str:
        return f'blocks={self.w1.shape[1]}, threshold={self.threshold}, spectral={self.spectral}'

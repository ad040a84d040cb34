"""Token mixers that work in the frequency domain.

Legend: B batch, C channels, H W grid of the map, h w stored grid, F = w // 2 + 1 half width, N filters, M mixed channels, K blocks.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import silu

from mmfreq.layers.basic import Mlp, StarReLU, to_bchw, to_bhwc
from mmfreq.ops import (
    RESIZE_POLICIES,
    SPECTRAL_BACKENDS,
    apply_filter,
    apply_mixture,
    block_mlp,
    half_width,
    map_spectrum,
    resize_filter,
)
from mmfreq.ops.spectral import complex_product


def as_grid(grid: int | tuple[int, int]) -> tuple[int, int]:
    """(h, w) from the side of a square grid or from the pair itself."""
    h, w = (grid, grid) if isinstance(grid, int) else grid
    if h < 1 or w < 1:
        raise ValueError(f'the stored grid of a filter must be at least 1x1, got {h}x{w}')
    return h, w


def choose(name: str, value: str, known: tuple[str, ...]) -> str:
    """`value`, if it is one of `known`."""
    if value not in known:
        raise ValueError(f"{name} '{value}' is unknown; choose one of {', '.join(known)}")
    return value


class StoredFilter(nn.Module):
    """Base of the layers with a filter that is stored for one grid and resized to the map's in forward.

    Args:
        count: filters, the size of the axis that is neither of the grid nor (real, imaginary).
        grid: stored grid, (h, w) or the side of a square one.
        filter_resize: policy of `mmfreq.ops.resize`.
        spectral: backend of `mmfreq.ops.spectral`.
        grid_first: the parameter is `(h, F, count, 2)`, else `(count, h, F, 2)`.
    """

    stored_name: ClassVar[str] = 'complex_weight'  # of the parameter

    def __init__(
        self,
        count: int,
        grid: int | tuple[int, int],
        filter_resize: str = 'bilinear',
        spectral: str = 'auto',
        grid_first: bool = False,
    ):
        super().__init__()
        self.grid = as_grid(grid)
        self.filter_resize = choose('filter_resize', filter_resize, RESIZE_POLICIES)
        self.spectral = choose('spectral', spectral, SPECTRAL_BACKENDS)
        self.weight_dims = (0, 1) if grid_first else (1, 2)
        half = (self.grid[0], half_width(self.grid[1]))
        shape = (*half, count, 2) if grid_first else (count, *half, 2)
        self.register_parameter(self.stored_name, nn.Parameter(nn.init.normal_(torch.empty(shape), std=0.02)))

    @property
    def stored(self) -> nn.Parameter:
        """The filter at its stored grid."""
        return getattr(self, self.stored_name)

    @property
    def stored_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that `fit_stored` brings to the stored grid."""
        return (self.stored_name,)

    def filter_for(self, size: tuple[int, int]) -> Tensor:
        """The filter for maps of `size`, resized by the policy."""
        return resize_filter(self.stored, size, self.filter_resize, self.weight_dims, width=self.grid[1])

    def store_at(self, size: tuple[int, int]) -> None:
        """Bring the parameter to another grid for good, as forward would for maps of `size`."""
        weight = self.filter_for(size).detach().contiguous()
        setattr(self, self.stored_name, nn.Parameter(weight, requires_grad=self.stored.requires_grad))
        self.grid = as_grid(size)

    def fit_stored(self, name: str, value: Tensor) -> Tensor:
        """Parameter `name` of a file, resized to the stored grid by the load-time rule (the same policy)."""
        want = self.stored.shape
        at = self.weight_dims
        if value.ndim != 4 or any(value.shape[d] != want[d] for d in range(4) if d not in at):
            return value  # not a matter of the grid: the loader reports it
        return resize_filter(value, self.grid, self.filter_resize, at) if value.shape != want else value

    def extra_repr(self) -> str:
        return f'grid={self.grid}, filter_resize={self.filter_resize}, spectral={self.spectral}'

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in self.stored_parameters:
            if prefix + name in state_dict:
                state_dict[prefix + name] = self.fit_stored(name, state_dict[prefix + name])
        super()._load_from_state_dict(state_dict, prefix, *args)


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

    def forward(self, x: Tensor) -> Tensor:
        x_bhwc = x if self.channels_last else to_bhwc(x)
        routing = self.reweight(x_bhwc.mean((1, 2))).unflatten(1, (self.num_filters, -1)).softmax(1)  # (B, N, M)
        y = to_bchw(self.act1(self.pwconv1(x_bhwc)))
        y = apply_mixture(y, routing, self.filter_for((y.shape[2], y.shape[3])), self.spectral)
        y_bhwc = self.pwconv2(to_bhwc(y))
        return y_bhwc if self.channels_last else to_bchw(y_bhwc)


class AdaptiveFrequencyFilter(nn.Module):
    """A mask computed from the spectrum itself, times the spectrum, plus the input (AFFNet, arXiv 2307.14008, section 3).

    The mask of each frequency is a two-layer block-diagonal complex network of the channels there, SiLU on real and imaginary part
    between the layers, soft-shrink on both at the end. Nothing depends on the grid. The products are of complex numbers written out
    (see `mmfreq.ops.complex`).

    Args:
        channels: C, divisible by `blocks`.
        blocks: K; blocks are contiguous groups of channels.
        threshold: lambda of the soft-shrink.
        spectral: backend of `mmfreq.ops.spectral`.
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
        y = x_bchw + adaptive_filter(x_bchw, self.w1, self.b1, self.w2, self.b2, self.threshold, self.spectral)
        return to_bhwc(y) if self.channels_last else y

    def extra_repr(self) -> str:
        return f'blocks={self.w1.shape[1]}, threshold={self.threshold}, spectral={self.spectral}'


def adaptive_filter(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, threshold: float, backend: str) -> Tensor:
    """The spectrum of `x` times its mask, and back; `(B, C, H, W)`, weights as in `block_mlp`."""

    def filtered(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
        first, second = ((w.to(re.dtype), b.to(re.dtype)) for w, b in ((w1, b1), (w2, b2)))
        return complex_product(*block_mlp(re, im, first, second, silu, threshold), re, im)

    return map_spectrum(x, filtered, backend=backend)


# functions that look at dtypes, devices or sizes are one node of an fx graph
fx.wrap('adaptive_filter')
fx.wrap('apply_filter')
fx.wrap('apply_mixture')
fx.wrap('resize_filter')

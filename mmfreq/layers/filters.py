"""Token mixers in the frequency domain.

`GlobalFilter`, `DynamicFilter` and DFFormer's `GlobalFilterMixer` are `StoredFilter`s: their filter is stored for one grid and
resized by a policy of `mmfreq.ops.resize`, when a file is loaded (`fit_stored`) and in forward (`filter_for`).
`AdaptiveFrequencyFilter` stores nothing at a grid.

Legend: B batch, C channels, H W grid of the map, h w stored grid, F = w // 2 + 1 half width, N filters, M mixed channels, K blocks.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import gelu, relu, silu

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

MASK_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {'silu': silu, 'relu': relu, 'gelu': gelu}  # of `AdaptiveFrequencyFilter`


def as_grid(grid: int | tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a grid given as a pair or as the side of a square."""
    h, w = (grid, grid) if isinstance(grid, int) else grid
    if h < 1 or w < 1:
        raise ValueError(f'the stored grid of a filter must be at least 1x1, got {h}x{w}')
    return h, w


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """`value`; raises a ValueError that names the argument if it is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} '{value}' is unknown; choose one of {', '.join(choices)}")
    return value


class StoredFilter(nn.Module):
    """Base of the layers whose filter is stored for one grid and resized to the map's grid in forward.

    Args:
        count: number of filters.
        grid: stored grid, (h, w) or the side of a square.
        filter_resize: policy of `mmfreq.ops.resize`.
        spectral: backend of `mmfreq.ops.spectral`.
        grid_first: the parameter is `(h, F, count, 2)` instead of `(count, h, F, 2)`.
    """

    stored_name: ClassVar[str] = 'complex_weight'  # the parameter's name, as published

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
        self.filter_resize = check_choice('filter_resize', filter_resize, RESIZE_POLICIES)
        self.spectral = check_choice('spectral', spectral, SPECTRAL_BACKENDS)
        self.weight_dims = (0, 1) if grid_first else (1, 2)
        half = (self.grid[0], half_width(self.grid[1]))
        shape = (*half, count, 2) if grid_first else (count, *half, 2)
        self.register_parameter(self.stored_name, nn.Parameter(nn.init.normal_(torch.empty(shape), std=0.02)))

    @property
    def stored(self) -> nn.Parameter:
        """The filter's parameter, at the stored grid."""
        return getattr(self, self.stored_name)

    @property
    def stored_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that `fit_stored` resizes at load."""
        return (self.stored_name,)

    def filter_for(self, size: tuple[int, int]) -> Tensor:
        """The filter resized to maps of `size`."""
        return resize_filter(self.stored, size, self.filter_resize, self.weight_dims, width=self.grid[1])

    def store_at(self, size: tuple[int, int]) -> None:
        """Replace the parameter by the filter that forward uses for maps of `size`."""
        weight = self.filter_for(size).detach().contiguous()
        setattr(self, self.stored_name, nn.Parameter(weight, requires_grad=self.stored.requires_grad))
        self.grid = as_grid(size)

    def fit_stored(self, name: str, value: Tensor) -> Tensor:
        """Value of parameter `name` in a file, resized to the stored grid if only the grid differs."""
        shape = self.stored.shape
        if value.ndim != 4 or any(value.shape[d] != shape[d] for d in range(4) if d not in self.weight_dims):
            return value  # other channels: the loader reports the mismatch
        return value if value.shape == shape else resize_filter(value, self.grid, self.filter_resize, self.weight_dims)

    def extra_repr(self) -> str:
        return f'grid={self.grid}, filter_resize={self.filter_resize}, spectral={self.spectral}'

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in self.stored_parameters:
            if prefix + name in state_dict:
                state_dict[prefix + name] = self.fit_stored(name, state_dict[prefix + name])
        super()._load_from_state_dict(state_dict, prefix, *args)


class GlobalFilter(StoredFilter):
    """`irfft2(K * rfft2(x))`, K one learned filter per channel: a circular convolution as large as the map (GFNet, section 3.2).

    Args:
        channels: C.
        grid, filter_resize, spectral: as in `StoredFilter`.
        channels_last: GFNet's layout, map `(B, H, W, C)` and parameter `(h, F, C, 2)`; else HorNet's, map `(B, C, H, W)` and
            parameter `(C, h, F, 2)`.

    Shape:
        `(B, C, H, W)` to the same, or `(B, H, W, C)` to the same; any H and W, any float dtype (computed in float32).
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
    """A filter per sample and channel, mixed from N learned ones (DFFormer, arXiv 2303.03932, section 3)::

        r = softmax over n of reweight(mean of x over the grid)           (N, M) coefficients per sample
        z = act1(pwconv1(x))                                              C to M = expansion * C channels
        y = pwconv2(irfft2((sum_n r[n, m] K[n]) * rfft2(z[m])))           back to C channels

    Args:
        channels: C.
        grid, filter_resize, spectral: as in `StoredFilter`.
        num_filters: N.
        routing_ratio: hidden width of the MLP `reweight`, over C.
        expansion: M / C.
        act: class of the activation before the filter; `reweight` always has StarReLU.
        channels_last: maps are `(B, H, W, C)`, as in DFFormer, instead of `(B, C, H, W)`; the parameters are the same.

    Shape:
        `(B, C, H, W)` to the same, or `(B, H, W, C)` to the same; any H and W. The filters are `(h, F, N, 2)`.
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
        routing = mixing_coefficients(self.reweight(x_bhwc.mean((1, 2))), self.num_filters)
        y = to_bchw(self.act1(self.pwconv1(x_bhwc)))
        y = apply_mixture(y, routing, self.filter_for((y.shape[2], y.shape[3])), self.spectral)
        y_bhwc = self.pwconv2(to_bhwc(y))
        return y_bhwc if self.channels_last else to_bchw(y_bhwc)


def mixing_coefficients(logits: Tensor, num_filters: int) -> Tensor:
    """Routing of a `DynamicFilter`: (B, N * M) logits of its MLP to (B, N, M) coefficients, a softmax over the N stored filters."""
    return logits.unflatten(1, (num_filters, -1)).softmax(1)


class AdaptiveFrequencyFilter(nn.Module):
    """A filter computed from the spectrum itself (AFFNet, arXiv 2307.14008, section 3)::

        s = rfft2(x)
        mask = softshrink(act(s W1 + b1) W2 + b2)     complex, block-diagonal over the channels, the same W and b at every frequency
        y = x + irfft2(mask * s)

    `act` and the soft-shrink act on the real and the imaginary part separately. No parameter depends on the grid.

    Args:
        channels: C, divisible by `blocks`.
        blocks: K; blocks are contiguous groups of channels.
        threshold: lambda of the soft-shrink.
        spectral: backend of `mmfreq.ops.spectral`.
        channels_last: maps are `(B, H, W, C)` instead of `(B, C, H, W)`; the parameters are the same.
        act: activation between the two linear maps, a key of `MASK_ACTIVATIONS`; published: 'silu'.

    Shape:
        `(B, C, H, W)` to the same, or `(B, H, W, C)` to the same; any H and W. Computed in float32.

    Raises:
        ValueError: channels not divisible by blocks, unknown backend or activation.
    """

    w1: nn.Parameter
    b1: nn.Parameter
    w2: nn.Parameter
    b2: nn.Parameter

    def __init__(
        self,
        channels: int,
        blocks: int = 8,
        threshold: float = 0.01,
        spectral: str = 'auto',
        channels_last: bool = False,
        act: str = 'silu',
    ):
        super().__init__()
        if channels % blocks:
            raise ValueError(f'channels of an adaptive frequency filter must be divisible by blocks={blocks}, got {channels}')
        self.threshold = threshold
        self.spectral = check_choice('spectral', spectral, SPECTRAL_BACKENDS)
        self.channels_last = channels_last
        self.act = check_choice('act', act, tuple(MASK_ACTIVATIONS))
        size = channels // blocks
        for name, shape in (('w1', (size, size)), ('b1', (size,)), ('w2', (size, size)), ('b2', (size,))):
            self.register_parameter(name, nn.Parameter(nn.init.normal_(torch.empty(2, blocks, *shape), std=0.02)))

    def forward(self, x: Tensor) -> Tensor:
        x_bchw = to_bchw(x) if self.channels_last else x
        weights = (self.w1, self.b1, self.w2, self.b2)
        y = x_bchw + adaptive_filter(x_bchw, *weights, self.threshold, self.spectral, self.act)
        return to_bhwc(y) if self.channels_last else y

    def extra_repr(self) -> str:
        return f'blocks={self.w1.shape[1]}, threshold={self.threshold}, spectral={self.spectral}, act={self.act}'


def adaptive_filter(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, threshold: float, backend: str, act: str) -> Tensor:
    """`irfft2(mask * rfft2(x))` of `AdaptiveFrequencyFilter`; `(B, C, H, W)` to the same, weights as in `block_mlp`."""

    def multiply_with_mask(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
        first, second = ((w.to(re.dtype), b.to(re.dtype)) for w, b in ((w1, b1), (w2, b2)))
        return complex_product(*block_mlp(re, im, first, second, MASK_ACTIVATIONS[act], threshold), re, im)

    return map_spectrum(x, multiply_with_mask, backend=backend)


# torch.fx cannot trace conditions on a tensor's dtype, device or size: these functions stay one node of a graph
fx.wrap('adaptive_filter')
fx.wrap('apply_filter')
fx.wrap('apply_mixture')
fx.wrap('resize_filter')

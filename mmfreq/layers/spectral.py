"""Filters that are learned in the frequency domain.

Legend: B batch, C channels, H W grid of the map, h w stored grid, F = w // 2 + 1 half width of the stored grid.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from mmfreq.ops import RESIZE_POLICIES, SPECTRAL_BACKENDS, apply_filter, half_width, resize_filter

CACHED_SIZES = 8  # resized filters kept in eval mode; the oldest goes first


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


class GlobalFilter(nn.Module):
    """One learned transfer function per channel: a circular convolution as large as the map (GFNet, section 3.2).

    The filter is stored for one grid and resized to the map's in forward. In eval mode without gradients the resized filter is
    kept for the last few sizes; the cache is dropped when the parameter changes, when it moves, and by `.train()` or `.eval()`.
    Not noticed: writing to `complex_weight.data` between two calls in eval mode.

    Args:
        channels: C.
        grid: stored grid, (h, w) or the side of a square one.
        filter_resize: policy of `mmfreq.ops.resize`.
        spectral: backend of `mmfreq.ops.fft`.
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
        super().__init__()
        self.grid = as_grid(grid)
        self.filter_resize = choose('filter_resize', filter_resize, RESIZE_POLICIES)
        self.spectral = choose('spectral', spectral, SPECTRAL_BACKENDS)
        self.map_dims = (1, 2) if channels_last else (2, 3)
        self.weight_dims = (0, 1) if channels_last else (1, 2)
        half = (self.grid[0], half_width(self.grid[1]))
        shape = (*half, channels, 2) if channels_last else (channels, *half, 2)
        self.complex_weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
        self._resized: OrderedDict[tuple, Tensor] = OrderedDict()

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[self.map_dims[0]], x.shape[self.map_dims[1]])
        return apply_filter(x, self.filter_for(size), self.map_dims, self.spectral)

    def filter_for(self, size: tuple[int, int]) -> Tensor:
        """The filter for maps of `size`, resized by the policy; from the cache where nothing can have changed."""
        weight = self.complex_weight
        reusable = not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing())
        if not reusable or weight.is_inference():
            return self._resize(weight, size)
        key = (size, weight.dtype, weight.device)
        state = (weight._version, weight.data_ptr())
        kept_state, kept = self._resized.get(key, (None, None))
        if kept_state != state:
            kept = self._resize(weight, size)
            self._resized[key] = (state, kept)
            while len(self._resized) > CACHED_SIZES:
                self._resized.popitem(last=False)
        return kept

    def fit_stored(self, weight: Tensor) -> Tensor:
        """A filter of another grid, resized to the stored one by the load-time rule (the same policy)."""
        want = self.complex_weight.shape
        at = self.weight_dims
        if weight.ndim != 4 or any(weight.shape[d] != want[d] for d in range(4) if d not in at):
            return weight  # not a matter of the grid: the loader reports it
        return resize_filter(weight, self.grid, self.filter_resize, at) if weight.shape != want else weight

    def train(self, mode: bool = True) -> 'GlobalFilter':
        self._resized.clear()
        return super().train(mode)

    def extra_repr(self) -> str:
        return f'grid={self.grid}, filter_resize={self.filter_resize}, spectral={self.spectral}'

    def _resize(self, weight: Tensor, size: tuple[int, int]) -> Tensor:
        return resize_filter(weight, size, self.filter_resize, self.weight_dims, width=self.grid[1])

    def _load_from_state_dict(self, state_dict, prefix, *args):
        name = prefix + 'complex_weight'
        if name in state_dict:
            state_dict[name] = self.fit_stored(state_dict[name])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self):
        return {**self.__dict__, '_resized': OrderedDict()}

"""What filters share whose parameter is stored for one grid: resizing to the map's, a cache in eval mode, loading of other grids.

Legend: h w stored grid, F = w // 2 + 1 half width of the stored grid.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmfreq.layers.eval_cache import CachingModule, EvalCache
from mmfreq.ops import RESIZE_POLICIES, SPECTRAL_BACKENDS, half_width, resize_filter


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


class StoredFilter(CachingModule):
    """Base of the layers with a filter that is stored for one grid and resized to the map's in forward.

    In eval mode without gradients the resized filter is kept for the last few sizes; the cache is dropped when the parameter
    changes, when it moves, and by `.train()` or `.eval()`. Not noticed: writing to the parameter's `.data` between two calls in
    eval mode.

    Args:
        count: filters, the size of the axis that is neither of the grid nor (real, imaginary).
        grid: stored grid, (h, w) or the side of a square one.
        filter_resize: policy of `mmfreq.ops.resize`.
        spectral: backend of `mmfreq.ops.fft`.
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
        self._resized = EvalCache()

    @property
    def stored(self) -> nn.Parameter:
        """The filter at its stored grid."""
        return getattr(self, self.stored_name)

    @property
    def stored_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that `fit_stored` brings to the stored grid."""
        return (self.stored_name,)

    def filter_for(self, size: tuple[int, int]) -> Tensor:
        """The filter for maps of `size`, resized by the policy; from the cache where nothing can have changed."""
        weight = self.stored
        key = (size, weight.dtype, weight.device)
        return self._resized.get(self.training, key, (weight,), lambda: self._resize(weight, size).contiguous())

    def store_at(self, size: tuple[int, int]) -> None:
        """Bring the parameter to another grid for good, as forward would for maps of `size`."""
        weight = self._resize(self.stored.detach(), size).contiguous()
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

    def _resize(self, weight: Tensor, size: tuple[int, int]) -> Tensor:
        return resize_filter(weight, size, self.filter_resize, self.weight_dims, width=self.grid[1])

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in self.stored_parameters:
            if prefix + name in state_dict:
                state_dict[prefix + name] = self.fit_stored(name, state_dict[prefix + name])
        super()._load_from_state_dict(state_dict, prefix, *args)

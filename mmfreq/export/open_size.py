"""Models for images of any size, as PyTorch's exporter can trace them: every size in the graph is computed from the input's shape.

Transforms and resized filters become products with matrices that the graph makes from the shape (`mmfreq.ops.open_size`). This
module replaces the parts of other libraries that convert a size to an integer, and selects the size to trace at.
"""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmfreq.errors import UserError
from mmfreq.ops import open_size

OPEN_AXES = {'batch': 0, 'height': 2, 'width': 3}  # name of an axis in the file -> axis of the images
POOLING_DIVISORS = (2, 3, 5)  # prime factors of the usual numbers of bins


def open_axes(model: nn.Module) -> dict[str, int]:
    """The axes of the images that may be open: those in the graph's optional attribute `open_axes`, by default all three."""
    return {name: OPEN_AXES[name] for name in getattr(model, 'open_axes', OPEN_AXES)}


def for_open_size(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode, with matrix products in place of FFT, that can be traced with open axes.

    Raises:
        UserError: a part of the model needs a fixed size.
    """
    model = copy.deepcopy(model).eval()
    for name, module in list(model.named_modules()):
        if isinstance(getattr(module, 'spectral', None), str):
            module.spectral = 'matmul'
        if getattr(module, 'filter_resize', None) == 'none':
            raise UserError(
                f"An open image size needs filters that can be resized, but {name} has filter_resize='none'. "
                f'Export for one size, or build the model with another filter_resize.'
            )
        replacement = _replacement(name, module)
        if replacement is not None:
            parent, _, attribute = name.rpartition('.')
            setattr(model.get_submodule(parent), attribute, replacement)
    return model


def _replacement(name: str, module: nn.Module) -> nn.Module | None:
    """A module with the outputs of `module` that does not convert sizes to integers; None if it need not be replaced."""
    if type(module) is nn.AdaptiveAvgPool2d:
        size = module.output_size
        return MatrixPool(*(size if isinstance(size, tuple) else (size, size)))
    if type(module).__name__ != 'Upsample' or getattr(module, 'size', None):
        return None
    factors = module.scale_factor if isinstance(module.scale_factor, tuple) else (module.scale_factor,) * 2
    if not all(float(factor).is_integer() for factor in factors):
        raise UserError(
            f'An open image size needs whole scale factors, but {name} enlarges maps by {module.scale_factor}. Export for one size.'
        )
    return Enlarge((int(factors[0]), int(factors[1])), module.mode, module.align_corners)


class MatrixPool(nn.Module):
    """`AdaptiveAvgPool2d`, by products with matrices that the graph makes from the map's size.

    Args:
        rows, columns: bins; None keeps the side.

    Shape:
        `(N, C, H, W)` to `(N, C, rows, columns)`.
    """

    def __init__(self, rows: int | None, columns: int | None):
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        if self.rows == self.columns == 1:
            return x.mean((2, 3), keepdim=True)
        y = x.float()
        if self.columns is not None:
            y = y @ open_size.pooling(self.columns, x.shape[3], y.dtype, y.device).t()
        if self.rows is not None:
            y = open_size.pooling(self.rows, x.shape[2], y.dtype, y.device) @ y
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f'{self.rows}, {self.columns}'


class Enlarge(nn.Module):
    """`Upsample` by whole factors, by size instead of by scale.

    Shape:
        `(N, C, H, W)` to `(N, C, factors[0] * H, factors[1] * W)`.
    """

    def __init__(self, factors: tuple[int, int], mode: str, align_corners: bool | None):
        super().__init__()
        self.factors, self.mode, self.align_corners = factors, mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2] * self.factors[0], x.shape[3] * self.factors[1])
        return interpolate(x, size, mode=self.mode, align_corners=self.align_corners)


def trace_size(model: nn.Module) -> tuple[int, int]:
    """The (H, W) to trace at: the maps have sides other than 1 and those of the stored grids, all different.

    A traced side that is equal to another number in the model by chance could become a constant of the program. For the same
    reason no number of bins divides the sides of the last map.
    """
    stored = {side for module in model.modules() if (grid := getattr(module, 'grid', None)) for side in as_pair(grid)}
    backbones = [module for module in model.modules() if hasattr(module, 'stage_sides')]
    found: list[int] = []
    taken: set[int] = set()
    for side in count(225, step=2):
        maps = [backbone.stage_sides(side) for backbone in backbones]
        sides = {each for each_map in maps for each in each_map}
        divisible = any(each_map[-1] % divisor == 0 for each_map in maps for divisor in POOLING_DIVISORS)
        if not divisible and not sides & ({1} | stored | taken):
            found.append(side)
            taken |= sides
        if len(found) == 2:
            return found[0], found[1]
    raise AssertionError('unreachable')


def as_pair(grid: int | tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a grid given as a pair or as the side of a square."""
    return (grid, grid) if isinstance(grid, int) else (grid[0], grid[1])


@contextmanager
def traceable(graph: nn.Module) -> Iterator[None]:
    """Within this context forward passes of `graph` share the matrices of a size, and mmseg's `resize` converts no size to int."""
    with open_size.shared_matrices() as known, _without_resize_warnings():
        hook = graph.register_forward_pre_hook(lambda *_: known.clear(), prepend=True)
        try:
            yield
        finally:
            hook.remove()


@contextmanager
def _without_resize_warnings() -> Iterator[None]:
    """mmseg's `resize` does not warn about sizes that do not align well: it would convert them to integers for this."""
    wrappers = sys.modules.get('mmseg.models.utils.wrappers')
    if wrappers is None:
        yield
        return
    defaults = wrappers.resize.__defaults__
    wrappers.resize.__defaults__ = (*defaults[:-1], False)  # `warning`, the last argument
    try:
        yield
    finally:
        wrappers.resize.__defaults__ = defaults


def check_open(proto, axes: dict[str, int]) -> None:
    """Raise a RuntimeError if an axis of the file's images has a fixed length."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    fixed = {name: dims[axis].dim_value for name, axis in axes.items() if not dims[axis].dim_param}
    if fixed:
        raise RuntimeError(f'Expected a graph with open {", ".join(axes)}, but the exporter fixed {fixed}. Export for one size.')

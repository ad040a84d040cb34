"""Models for images of any size, as PyTorch's exporter can trace them: every size in the graph is computed from the input's shape.

Transforms and resized filters become products with matrices that the graph makes from the shape (`mmfreq.ops.open_size`). This
module replaces the parts of other libraries that convert a size to an integer, and selects the size to trace at.
"""

import copy
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, interpolate
from torch.overrides import TorchFunctionMode

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
        label = name or type(module).__name__
        if getattr(module, 'filter_resize', None) == 'none':
            raise UserError(
                f"An open image size needs filters that can be resized, but {label} has filter_resize='none'. "
                f'Export for one size, or build the model with another filter_resize and optimize it without an image size.'
            )
        replacement = _replacement(label, module)
        if replacement is not None:
            parent, _, attribute = name.rpartition('.')
            setattr(model.get_submodule(parent), attribute, replacement)
    return model


def _replacement(label: str, module: nn.Module) -> nn.Module | None:
    """A module with the outputs of `module` that does not convert sizes to integers; None if it need not be replaced."""
    if type(module) is nn.AdaptiveAvgPool2d:
        size = module.output_size
        return MatrixPool(*(size if isinstance(size, tuple) else (size, size)))
    if type(module).__name__ != 'Upsample' or getattr(module, 'size', None):
        return None
    factors = module.scale_factor if isinstance(module.scale_factor, tuple) else (module.scale_factor,) * 2
    if not all(float(factor).is_integer() for factor in factors):
        raise UserError(
            f'An open image size needs whole scale factors, but {label} enlarges by {module.scale_factor}. Export for one size.'
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


class _Pools(TorchFunctionMode):
    """Within this context `adaptive_avg_pool2d` is a `MatrixPool`; what the exporter would fix to the traced size is an error."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is adaptive_avg_pool2d:
            return pool_by_matrix(*args, **kwargs)
        if func is adaptive_max_pool2d:
            return largest(*args, **kwargs)
        if func is interpolate and kwargs.get('mode') == 'area':
            raise UserError("An open image size needs another mode of interpolate than 'area'. Export for one size.")
        return func(*args, **kwargs)


def pool_by_matrix(input: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """`adaptive_avg_pool2d` by `MatrixPool`."""
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    return MatrixPool(rows, columns)(input)


def largest(input: Tensor, output_size: int | tuple[int, int], return_indices: bool = False) -> Tensor:
    """`adaptive_max_pool2d` to one value of each map; to other sizes it is refused."""
    if return_indices or output_size not in (1, (1, 1)):
        raise UserError(f'An open image size cannot be pooled by adaptive_max_pool2d to {output_size}. Export for one size.')
    return input.amax((2, 3), keepdim=True)


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
def traceable(graph: nn.Module, axes: Collection[str]) -> Iterator[None]:
    """A context for `torch.onnx.export` of `graph`: its matrices are computed once for each size, no part converts a size to int.

    Raises:
        UserError: the exporter fails; its own error is the cause.
    """
    with open_size.shared_matrices() as known, _without_resize_warnings(), _Pools():

        def before_forward(*_) -> None:
            if torch.compiler.is_dynamo_compiling():  # the exporter's second attempt, which hides from Python that sizes are open
                raise RuntimeError('only the first attempt of the exporter is used')
            known.clear()

        hook = graph.register_forward_pre_hook(before_forward, prepend=True)
        try:
            yield
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise UserError(
                f'Expected a model for images with open {_listed(axes)}, but the exporter cannot trace it ({reason}). '
                f'Export for one size.'
            ) from error
        finally:
            hook.remove()


def _listed(names: Collection[str]) -> str:
    *others, last = names
    return f'{", ".join(others)} and {last}' if others else last


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


def check_open(proto, axes: Mapping[str, int]) -> None:
    """Raise a RuntimeError if an axis of the file's images has a fixed length."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    fixed = {name: dims[axis].dim_value for name, axis in axes.items() if not dims[axis].dim_param}
    if fixed:
        raise RuntimeError(f'Expected a graph with open {_listed(axes)}, but the exporter fixed {fixed}. Export for one size.')

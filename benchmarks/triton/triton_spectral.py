"""The spectral operator as one kernel on CUDA: a map is read once and written once, forward and backward.

`fused_filter` computes `apply_filter` for four-dimensional maps with sides up to 128 (see `supported`), with the same definition
of the inverse. Only the map and the filter are saved for backward; the spectrum is computed again.
`benchmarks.triton.triton_transforms` explains the method; it is imported with the kernels when it is first needed, so importing
this file does not need Triton.

Legend: B batch, C channels, H W grid, F = W // 2 + 1 half width.
"""

from importlib.util import find_spec
from os import environ

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from benchmarks.triton.triton_launch import Launch, bases_of, constants, cut_up, fits, grid_of, plan_launch, processors

HAS_TRITON = find_spec('triton') is not None
INTERPRETED = environ.get('TRITON_INTERPRET') == '1'  # read once, as Triton does; torch 2.4 cannot compile the access
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def available(device: torch.device) -> bool:
    """Whether the kernels run there: Triton and an NVIDIA GPU since Ampere, or a CPU under Triton's interpreter."""
    if not HAS_TRITON or device.type != 'cuda':
        return HAS_TRITON and device.type == 'cpu' and INTERPRETED
    return torch.version.hip is None and torch.cuda.get_device_properties(device).major >= 8


def supported(x: Tensor, weight: Tensor, dims: tuple[int, int] = (-2, -1)) -> bool:
    """Whether `fused_filter` takes these arguments."""
    if x.ndim != 4 or weight.ndim not in (4, 5) or 0 in (dims[0] % 4, dims[1] % 4):
        return False
    if x.dtype not in DTYPES or not weight.is_floating_point() or x.device != weight.device or not x.numel():
        return False
    batch, channels, height, width = x.movedim(dims, (-2, -1)).shape
    grid = (channels, height, width // 2 + 1, 2)
    reach = sum((size - 1) * step for size, step in zip(x.shape[1:], x.stride()[1:]))
    same = filter_view(weight, dims).shape in (grid, (batch, *grid))
    return same and fits(height, width) and batch < 2**16 and reach < 2**31 and available(x.device)


def fused_filter(x: Tensor, weight: Tensor, dims: tuple[int, int] = (-2, -1)) -> Tensor:
    """Circular convolution of `x` with the transfer function `weight`, as `apply_filter`, in one kernel.

    Args:
        x: real map, float32, bfloat16 or float16; any strides.
        weight: real view of the filter's half spectrum, one for all samples or one for each.
        dims: positions of H and W in `x`.

    Shape:
        `x` `(B, C, H, W)` with `weight` `(C, H, F, 2)` or `(B, C, H, F, 2)`, or with `dims=(1, 2)` `x` `(B, H, W, C)` with `weight`
        `(H, F, C, 2)` or `(B, H, F, C, 2)`; the result has the shape, dtype and layout of `x`. Float32 inside.

    Not guaranteed: a second derivative; that a value that is not finite stays in its channel.

    Raises:
        ValueError: arguments that `supported` refuses.
    """
    if not supported(x, weight, dims):
        raise ValueError(
            'the fused filter takes a map of four dimensions in float32, bfloat16 or float16, with sides up to 64, or 128 where 4 '
            f'divides both, and a filter of its grid, on a device with Triton; got {x.dtype} {tuple(x.shape)} and '
            f"{tuple(weight.shape)} with dims={dims} on {x.device}; use apply_filter with backend='fft'"
        )
    return _FusedFilter.apply(x, weight, dims)


class _FusedFilter(Function):
    @staticmethod
    def forward(ctx, x, weight, dims):
        ctx.save_for_backward(x, weight)
        ctx.dims = dims
        return _filtered(x, weight, dims, False)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, _ = ctx.needs_input_grad
        if not wants_weight:
            return _filtered(grad, weight, ctx.dims, True), None, None
        run = gradients_op if torch.compiler.is_compiling() else run_gradients
        grad_x, grad_weight = run(x, grad, weight, ctx.dims, wants_x)
        return grad_x if wants_x else None, grad_weight, None


def _filtered(x: Tensor, weight: Tensor, dims: tuple[int, int], adjoint: bool) -> Tensor:
    return (filter_op if torch.compiler.is_compiling() else run_filter)(x, weight, dims, adjoint)


def run_filter(x: Tensor, weight: Tensor, dims: tuple[int, int], adjoint: bool = False, launch: Launch | None = None) -> Tensor:
    """The filtered map; with `adjoint`, by the conjugate filter. `launch` is for measurements: by default that of `plan_launch`."""
    from benchmarks.triton.triton_kernels import filter_kernel

    y = torch.empty_like(x)
    view, filters = x.movedim(dims, (-2, -1)), filter_view(weight, dims)
    cut = cut_up(*view.shape)
    launch = launch or plan_launch(cut, filters.ndim == 4, False, processors(x.device))
    with torch.cuda.device_of(x):
        filter_kernel[grid_of(cut, launch)](
            x, y, weight, *bases_of(cut, x.device),
            *view.stride(), *y.movedim(dims, (-2, -1)).stride(), *filter_strides(filters), *view.shape, launch.samples,
            SIGN=-1 if adjoint else 1, **constants(cut, launch),
        )  # fmt: skip
    return y


def run_gradients(
    x: Tensor, grad: Tensor, weight: Tensor, dims: tuple[int, int], with_x: bool = True, launch: Launch | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of the map and of the filter; the first is empty unless `with_x`."""
    from benchmarks.triton.triton_kernels import gradient_kernel

    grad_x = torch.empty_like(x) if with_x else x.new_empty(0)
    view, filters = x.movedim(dims, (-2, -1)), filter_view(weight, dims)
    cut = cut_up(*view.shape)
    shared = filters.ndim == 4
    launch = launch or plan_launch(cut, shared, True, processors(x.device))
    grid = grid_of(cut, launch)
    parts = torch.empty((grid[1], *weight.shape) if shared else weight.shape, dtype=torch.float32, device=x.device)
    strides = (each.movedim(dims, (-2, -1)).stride() for each in (x, grad, grad_x if with_x else x))
    with torch.cuda.device_of(x):
        gradient_kernel[grid](
            x, grad, grad_x, weight, parts, *bases_of(cut, x.device),
            *(step for each in strides for step in each), *filter_strides(filters), *filter_strides(filter_view(parts, dims)),
            *view.shape, launch.samples, WITH_X=with_x, **constants(cut, launch),
        )  # fmt: skip
    return grad_x, (parts.sum(0) if shared else parts).to(weight.dtype)


def filter_view(weight: Tensor, dims: tuple[int, int]) -> Tensor:
    """The filter as `(C, H, F, 2)` or `(B, C, H, F, 2)`, without a copy."""
    return weight.movedim([d % 4 - 5 for d in dims], (-3, -2))


def filter_strides(filters: Tensor) -> tuple[int, ...]:
    """Of `(B, C, H, F, 2)`; 0 for the sample of a filter that all share."""
    return filters.stride() if filters.ndim == 5 else (0, *filters.stride())


# For a compiler, which shall not look into the kernels. The schemas are written out: torch 2.4 cannot read `list[int]`.
@torch.library.custom_op(
    'mmfreq::fused_filter', mutates_args=(), schema='(Tensor x, Tensor weight, int[] dims, bool adjoint) -> Tensor'
)
def filter_op(x: Tensor, weight: Tensor, dims: list[int], adjoint: bool) -> Tensor:
    """`run_filter`."""
    return run_filter(x, weight, tuple(dims), adjoint)


@filter_op.register_fake
def _(x, weight, dims, adjoint):
    return torch.empty_like(x)


@torch.library.custom_op(
    'mmfreq::fused_filter_gradients',
    mutates_args=(),
    schema='(Tensor x, Tensor grad, Tensor weight, int[] dims, bool with_x) -> (Tensor, Tensor)',
)
def gradients_op(x: Tensor, grad: Tensor, weight: Tensor, dims: list[int], with_x: bool) -> tuple[Tensor, Tensor]:
    """`run_gradients`."""
    return run_gradients(x, grad, weight, tuple(dims), with_x)


@gradients_op.register_fake
def _(x, grad, weight, dims, with_x):
    return torch.empty_like(x) if with_x else x.new_empty(0), weight.new_empty(weight.shape)

"""When the fused forms of a computation may stand in for the plain ones, and in which pieces they work.

The fused forms (`norm_mlp`, `gated`, `norm_act_conv`, `spectral_filter`) compute what a chain of torch's own functions computes,
but keep less for the backward pass and touch memory less often. They are for eager mode alone: a compiler or an exporter wants the
chain.

On a CPU they work in pieces whose intermediate results stay in its cache, in memory that stays with the process (`allocator.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mmfreq.ops.allocator import keep_freed_memory

PIECE_BYTES = 8 * 2**20  # of the widest intermediate result of a piece on a CPU


_allowed = True


@contextmanager
def plain_forms() -> Iterator[None]:
    """Within it no fused form is taken: what runs is the chain of torch's own functions, for counting, comparing or debugging."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before


def may_fuse() -> bool:
    """Whether we run eagerly, in plain or reverse mode: nobody compiles, traces, exports or transforms the computation."""
    return _allowed and not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch.onnx.is_in_onnx_export()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will want the gradient of any of them."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def work_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which torch would multiply matrices with `x`: autocast's where it holds, else its own."""
    if x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def no_autocast(x: Tensor) -> AbstractContextManager:
    """Autocast off on the device of `x`."""
    return torch.autocast(x.device.type, enabled=False) if torch.is_autocast_enabled(x.device.type) else nullcontext()


def pieces(count: int, bytes_each: int, device: torch.device) -> list[slice]:
    """Slices that cover `count` items: as many at a time as fit into `PIECE_BYTES` on a CPU, all at once on other devices."""
    if device.type != 'cpu':
        return [slice(0, count)]
    keep_freed_memory()
    if count * bytes_each <= PIECE_BYTES:
        return [slice(0, count)]
    rounds = -(-count // max(PIECE_BYTES // bytes_each, 1))
    step = -(-count // rounds)  # even pieces
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def linear_into(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear(x, weight, bias)` of a matrix `x`, written into `out`."""
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)


Tensors = tuple[Tensor | None, ...]


def leaves_of(tensors: Tensors) -> Tensors:
    """The same values as leaves of a new graph."""
    return tuple(None if t is None else t.detach().requires_grad_() for t in tensors)


def gradients(outputs: Tensors, leaves: Tensors, grads: Tensors) -> Tensors:
    """Gradients of the leaves for those of the outputs; None for a leaf that is None."""
    pairs = [(out, grad.to(out.dtype)) for out, grad in zip(outputs, grads, strict=True) if out is not None]
    found = iter(torch.autograd.grad([out for out, _ in pairs], [t for t in leaves if t is not None], [g for _, g in pairs]))
    return tuple(None if t is None else next(found) for t in leaves)


def vjp(function: Callable[..., Tensor], inputs: Tensors, grad: Tensor) -> Tensors:
    """Gradients of `function(*inputs)` for the gradient `grad` of its result, by computing it again."""
    leaves = leaves_of(inputs)
    with torch.enable_grad():
        out = function(*leaves)
    return gradients((out,), leaves, (grad,))

"""`memory_efficient=True`: training that recomputes the results of cheap functions in backward instead of saving them.

Autograd saves the result of a norm, an activation or a product where the next function needs it. Within
`recompute_cheap_functions` it saves the function and its arguments instead, which are mostly saved in any case. Only calls of the
torch functions in `CHEAP` with plain tensors are recorded. Modules run unchanged, so hooks, replaced parts, parametrizations and
tensor subclasses work as usual. Results are bitwise equal, except batch norms in training, which differ by rounding; second
derivatives work. As for all saved tensors, writes through `.data` between forward and backward are not detected.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# memory-bound: each takes much less time than the matrix products and convolutions between them
CHEAP = {
    F.layer_norm,
    F.group_norm,
    F.batch_norm,
    F.gelu,
    F.silu,
    F.softshrink,
    torch.clamp,
    Tensor.clamp,
    torch.square,
    Tensor.square,
    torch.mul,
    Tensor.mul,
    Tensor.__mul__,
    Tensor.__rmul__,
    torch.addcmul,
    Tensor.to,
}
ADDITIONS = {torch.add, Tensor.add}  # cheap if no map has to be saved for them; for a residual one would
# under autocast these cast their inputs internally; here the cast is recorded as a cheap function
AUTOCAST = {F.linear, F.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__}


@contextmanager
def recompute_cheap_functions() -> Iterator[None]:
    """A context in which autograd saves how results of `CHEAP` functions were computed instead of the results.

    It has no effect without gradients, under a compiler (which chooses what to save by itself), within transforms of `torch.func`
    (which do not support hooks on saved tensors), and within other such hooks (checkpointing, `save_on_cpu`), since torch calls
    the innermost ones only.
    """
    recorder = Recorder()
    with ExitStack() as stack:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and not saved_tensor_hooks_active():
            with suppress(RuntimeError):  # within a transform of torch.func
                stack.enter_context(saved_tensors_hooks(recorder.pack, unpack))
                stack.enter_context(recorder)
        yield
    recorder.records.clear()


def saved_tensor_hooks_active() -> bool:
    """Whether other hooks on saved tensors are active."""
    top = getattr(torch._C._autograd, '_top_saved_tensors_default_hooks', None)
    return top is not None and top(True) is not None


class Recomputation:
    """How a tensor was computed: a cheap function and its arguments, some of which are results of other recomputations."""

    def __init__(self, function: Callable, args: tuple, kwargs: dict[str, Any], autocast: tuple[str, torch.dtype, bool]):
        self.function, self.args, self.kwargs, self.autocast = function, args, kwargs, autocast
        self.versions = self.argument_versions()
        self.uses = self.left = 0  # backward functions that saved the result, and those that have not yet used it
        self.result: Tensor | None = None

    def argument_versions(self) -> list[int]:
        return [a._version for a in (*self.args, *self.kwargs.values()) if isinstance(a, Tensor)]

    def compute(self) -> Tensor:
        """The tensor; it is cached until the last backward function has used it."""
        if self.result is None:
            check_unchanged(self.versions == self.argument_versions(), f'an argument of {self.function.__name__}')
            device, *_ = self.autocast
            same = self.autocast == autocast_of(device)
            with torch.no_grad(), nullcontext() if same else torch.autocast(*self.autocast, cache_enabled=False):
                result = self.function(*map(resolve, self.args), **{name: resolve(a) for name, a in self.kwargs.items()})
            self.result = result if self.left > 0 else None
            return result
        return self.result

    def release(self) -> None:
        """Note that a backward function has used the result."""
        self.left -= 1
        if self.left <= 0:
            self.result, self.left = None, self.uses  # for another backward pass with `retain_graph`


class View:
    """A view of the result of a recomputation."""

    def __init__(self, recomputation: Recomputation, x: Tensor):
        self.recomputation, self.size, self.stride, self.offset = recomputation, x.size(), x.stride(), x.storage_offset()

    def compute(self) -> Tensor:
        return self.recomputation.compute().as_strided(self.size, self.stride, self.offset)


class Recorder(TorchFunctionMode):
    """Records how results of cheap functions were computed; `pack` finds the record of a saved tensor."""

    def __init__(self):
        super().__init__()
        self.records: dict[int, tuple[StorageWeakRef, int, torch.dtype, Recomputation]] = {}  # by data pointer
        self.casts = torch.is_autocast_enabled('cpu') or torch.is_autocast_enabled('cuda')

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.casts and function in AUTOCAST:
            args = tuple(self.cast(a) for a in args)
        out = function(*args, **kwargs)
        if not isinstance(out, Tensor):  # a proxy of torch.fx
            return out
        if function in CHEAP or (function in ADDITIONS and all(self.is_cheap_input(a, out) for a in args)):
            self.record(function, args, kwargs, out)
        return out

    def is_cheap_input(self, argument: Any, out: Tensor) -> bool:
        """Whether an argument can be recomputed or is small compared to the result, such as a bias."""
        return (
            not isinstance(argument, Tensor) or argument.numel() < out.numel() / 16 or self.recomputation_of(argument) is not None
        )

    def cast(self, x: Any) -> Any:
        """`x` in autocast's dtype, if it can be recomputed."""
        if self.recomputation_of(x) is None or x.dtype != torch.float32 or not torch.is_autocast_enabled(x.device.type):
            return x
        dtype = torch.get_autocast_dtype(x.device.type)
        out = x.to(dtype)
        self.record(Tensor.to, (x, dtype), {}, out)
        return out

    def record(self, function: Callable, args: tuple, kwargs: dict[str, Any], out: Tensor) -> None:
        """Record how `out` was computed, if it is a new tensor and all tensors are plain."""
        inputs = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if not out.requires_grad or address(out) is None or any(address(a) in (None, address(out)) for a in inputs):
            return
        if function is F.batch_norm and kwargs.get('training', False):
            if not hasattr(out.grad_fn, '_saved_result2'):
                return
            statistics = out.grad_fn._saved_result1, out.grad_fn._saved_result2  # mean, inverse standard deviation
            function, args, kwargs = batch_norm_with_statistics, (args[0], *statistics, kwargs['weight'], kwargs['bias']), {}
        stored = tuple(map(self.stored_argument, args)), {name: self.stored_argument(a) for name, a in kwargs.items()}
        recomputation = Recomputation(function, *stored, autocast_of(out.device.type))
        self.records[address(out)] = StorageWeakRef(out.untyped_storage()), out._version, out.dtype, recomputation

    def stored_argument(self, argument: Any) -> Any:
        """The form in which a recomputation stores an argument."""
        if not isinstance(argument, Tensor):
            return argument
        recomputation = self.recomputation_of(argument)
        return argument.detach() if recomputation is None else View(recomputation, argument)

    def recomputation_of(self, x: Any) -> Recomputation | None:
        """The recomputation of a tensor or of its base; None if there is none or the tensor was modified since."""
        known = self.records.get(address(x)) if isinstance(x, Tensor) else None
        if known is None or x.is_conj() or x.is_neg():
            return None
        storage, version, dtype, recomputation = known
        return None if storage.expired() or version != x._version or dtype != x.dtype else recomputation

    def pack(self, x: Tensor) -> View | tuple[Tensor, int]:
        """Hook: what autograd saves for a tensor."""
        recomputation = self.recomputation_of(x)
        if recomputation is None:
            return x.detach(), x._version  # detached, since autograd attaches the graph again: no reference cycle
        recomputation.uses += 1
        recomputation.left += 1
        return View(recomputation, x)


def batch_norm_with_statistics(x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Batch norm with known statistics."""
    scale = rstd if weight is None else weight * rstd
    shift = -mean * scale if bias is None else bias - mean * scale
    scale, shift = (t.view(-1, *[1] * (x.ndim - 2)) for t in (scale, shift))
    return torch.addcmul(shift, x, scale).to(x.dtype)


def resolve(argument: Any) -> Any:
    """A stored argument as a value, recomputed if necessary."""
    return argument.compute() if isinstance(argument, View) else argument


def autocast_of(device: str) -> tuple[str, torch.dtype, bool]:
    """Device, autocast dtype and whether autocast is enabled there."""
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


def unpack(saved: View | tuple[Tensor, int]) -> Tensor:
    """Hook: the tensor for a backward function."""
    if isinstance(saved, View):
        x = saved.compute()
        saved.recomputation.release()
        return x
    x, version = saved
    check_unchanged(version == x._version, f'a tensor of shape {tuple(x.shape)}')
    return x


def address(x: Tensor) -> int | None:
    """Data pointer of a plain tensor's storage; None for subclasses and tensors without memory."""
    if type(x) not in (Tensor, torch.nn.Parameter) or x.device.type == 'meta':
        return None
    try:
        start = x.data_ptr()
    except (RuntimeError, NotImplementedError):  # within `torch.vmap`
        return None
    return start - x.storage_offset() * x.element_size() if start else None


def check_unchanged(unchanged: bool, what: str) -> None:
    """Raise the same error as autograd if a saved tensor was modified."""
    if not unchanged:
        raise RuntimeError(
            f'one of the variables needed for gradient computation has been modified by an inplace operation: {what}; '
            f'clone it before the operation, or build the model without memory_efficient'
        )

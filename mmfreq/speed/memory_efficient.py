"""Training that saves less for backward: results of cheap functions are computed again instead of saved (`memory_efficient=True`).

Of a norm, an activation, or a product, autograd saves the result wherever the next function needs it. Within `saving_less` it saves
how the result was made: the function and its arguments, which are mostly saved in any case. The modules run as they always do, so
hooks, replaced parts, parametrisations and tensor subclasses have their usual effect: only calls of the torch functions in
`CHEAP` on plain tensors are watched, whoever makes them. Numbers are the same to the last bit, batch norms in training within
rounding; backward of backward works. As with any saved tensor, writes through `.data` between forward and
backward are not noticed; here they change gradients by more.
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

# one pass over memory each, against the matrix products and convolutions between them
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
ADDING = {torch.add, Tensor.add}  # cheap if no map has to be saved for it, as a residual would have to be
# under autocast these cast their inputs out of sight; here the cast is a cheap function of its own
CASTING = {F.linear, F.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__}


@contextmanager
def saving_less() -> Iterator[None]:
    """Within it, autograd saves how results of `CHEAP` functions were made instead of the results.

    Without effect where no gradient is wanted, for a compiler (which makes the same choice by itself), within `torch.func`'s
    transforms, which allow no hooks on saved tensors, and where others have such hooks (checkpointing, `save_on_cpu`): torch only
    calls the innermost.
    """
    watch = Watch()
    with ExitStack() as stack:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and not others_hooks():
            with suppress(RuntimeError):  # within a transform
                stack.enter_context(saved_tensors_hooks(watch.pack, unpack))
                stack.enter_context(watch)
        yield
    watch.known.clear()


def others_hooks() -> bool:
    """Whether somebody has hooks on saved tensors."""
    top = getattr(torch._C._autograd, '_top_saved_tensors_default_hooks', None)
    return top is not None and top(True) is not None


class Recipe:
    """How a tensor was made: a cheap function and its arguments, some of them parts of what other recipes make."""

    def __init__(self, function: Callable, args: tuple, kwargs: dict[str, Any], autocast: tuple[str, torch.dtype, bool]):
        self.function, self.args, self.kwargs, self.autocast = function, args, kwargs, autocast
        self.versions = self.argument_versions()
        self.uses = self.left = 0  # how many backward functions saved the result, and how many of them have yet to ask for it
        self.result: Tensor | None = None

    def argument_versions(self) -> list[int]:
        return [a._version for a in (*self.args, *self.kwargs.values()) if isinstance(a, Tensor)]

    def make(self) -> Tensor:
        """The tensor; kept until the last backward function has asked for it."""
        if self.result is None:
            check(self.versions == self.argument_versions(), f'an argument of {self.function.__name__}')
            device, *_ = self.autocast
            same = self.autocast == autocast_of(device)
            with torch.no_grad(), nullcontext() if same else torch.autocast(*self.autocast, cache_enabled=False):
                made = self.function(*map(value, self.args), **{name: value(a) for name, a in self.kwargs.items()})
            self.result = made if self.left > 0 else None
            return made
        return self.result

    def used(self) -> None:
        """One backward function less has to ask for it."""
        self.left -= 1
        if self.left <= 0:
            self.result, self.left = None, self.uses  # the next backward pass, with `retain_graph`, starts again


class Part:
    """The part of a recipe's result that a tensor is a view of."""

    def __init__(self, recipe: Recipe, x: Tensor):
        self.recipe, self.size, self.stride, self.offset = recipe, x.size(), x.stride(), x.storage_offset()

    def make(self) -> Tensor:
        return self.recipe.make().as_strided(self.size, self.stride, self.offset)


class Watch(TorchFunctionMode):
    """Writes a recipe of each result of a cheap function, and finds it when autograd saves the result or a view of it."""

    def __init__(self):
        super().__init__()
        self.known: dict[int, tuple[StorageWeakRef, int, torch.dtype, Recipe]] = {}  # by the address of the memory
        self.casts = torch.is_autocast_enabled('cpu') or torch.is_autocast_enabled('cuda')

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.casts and function in CASTING:
            args = tuple(self.cast(a) for a in args)
        out = function(*args, **kwargs)
        if not isinstance(out, Tensor):  # torch.fx has values of its own
            return out
        if function in CHEAP or (function in ADDING and all(self.is_light(a, out) for a in args)):
            self.write(function, args, kwargs, out)
        return out

    def is_light(self, argument: Any, out: Tensor) -> bool:
        """Whether an argument can be made again, or is little beside the result, as a bias is."""
        return not isinstance(argument, Tensor) or argument.numel() < out.numel() / 16 or self.recipe_of(argument) is not None

    def cast(self, x: Any) -> Any:
        """`x` in autocast's dtype, if it can be made again."""
        if self.recipe_of(x) is None or x.dtype != torch.float32 or not torch.is_autocast_enabled(x.device.type):
            return x
        dtype = torch.get_autocast_dtype(x.device.type)
        out = x.to(dtype)
        self.write(Tensor.to, (x, dtype), {}, out)
        return out

    def write(self, function: Callable, args: tuple, kwargs: dict[str, Any], out: Tensor) -> None:
        """Remember how `out` was made, if it is a new tensor, and all is plain."""
        inputs = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if not out.requires_grad or address(out) is None or any(address(a) in (None, address(out)) for a in inputs):
            return
        if function is F.batch_norm and kwargs.get('training', False):
            if not hasattr(out.grad_fn, '_saved_result2'):
                return
            statistics = out.grad_fn._saved_result1, out.grad_fn._saved_result2  # mean, inverse standard deviation
            function, args, kwargs = normalized, (args[0], *statistics, kwargs['weight'], kwargs['bias']), {}
        kept = tuple(map(self.source, args)), {name: self.source(a) for name, a in kwargs.items()}
        recipe = Recipe(function, *kept, autocast_of(out.device.type))
        self.known[address(out)] = StorageWeakRef(out.untyped_storage()), out._version, out.dtype, recipe

    def source(self, argument: Any) -> Any:
        """What a recipe keeps of an argument."""
        if not isinstance(argument, Tensor):
            return argument
        recipe = self.recipe_of(argument)
        return argument.detach() if recipe is None else Part(recipe, argument)

    def recipe_of(self, x: Any) -> Recipe | None:
        """The recipe of a tensor or of what it is a view of; None if it has none or was written to since."""
        known = self.known.get(address(x)) if isinstance(x, Tensor) else None
        if known is None or x.is_conj() or x.is_neg():
            return None
        storage, version, dtype, recipe = known
        return None if storage.expired() or version != x._version or dtype != x.dtype else recipe

    def pack(self, x: Tensor) -> Part | tuple[Tensor, int]:
        """What autograd keeps of a tensor to save."""
        recipe = self.recipe_of(x)
        if recipe is None:
            return x.detach(), x._version  # autograd attaches the graph again; a result would hold itself
        recipe.uses += 1
        recipe.left += 1
        return Part(recipe, x)


def normalized(x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Batch norm with known statistics: one pass over `x`."""
    scale = rstd if weight is None else weight * rstd
    shift = -mean * scale if bias is None else bias - mean * scale
    scale, shift = (t.view(-1, *[1] * (x.ndim - 2)) for t in (scale, shift))
    return torch.addcmul(shift, x, scale).to(x.dtype)


def value(argument: Any) -> Any:
    """An argument of a recipe's function."""
    return argument.make() if isinstance(argument, Part) else argument


def autocast_of(device: str) -> tuple[str, torch.dtype, bool]:
    """Device, dtype and state of autocast there."""
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


def unpack(saved: Part | tuple[Tensor, int]) -> Tensor:
    """The tensor again, for a backward function."""
    if isinstance(saved, Part):
        x = saved.make()
        saved.recipe.used()
        return x
    x, version = saved
    check(version == x._version, f'a tensor of shape {tuple(x.shape)}')
    return x


def address(x: Tensor) -> int | None:
    """Where the memory of a plain tensor starts; None for others (subclasses, tensors without memory)."""
    if type(x) not in (Tensor, torch.nn.Parameter) or x.device.type == 'meta':
        return None
    try:
        start = x.data_ptr()
    except (RuntimeError, NotImplementedError):  # within `torch.vmap`
        return None
    return start - x.storage_offset() * x.element_size() if start else None


def check(unchanged: bool, what: str) -> None:
    """Raise what autograd raises for saved tensors that it looks after itself."""
    if not unchanged:
        raise RuntimeError(
            f'one of the variables needed for gradient computation has been modified by an inplace operation: {what}; '
            f'clone it before the operation, or build the model without memory_efficient'
        )

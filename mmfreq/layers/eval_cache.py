"""Values derived from parameters, kept in eval mode for as long as the parameters stay as they are."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

CACHED_VALUES = 8  # of one module; the one that was not used for longest goes first


class EvalCache:
    """Derived values by key, each with the state that its sources had.

    Used in eval mode without gradients alone. A value is made again when a source was written to, replaced or moved, and after
    `.train()` or `.eval()` of the `CachingModule` that owns it (averaged weights are swapped in through `.data`, which nothing else
    notices). Never part of a checkpoint, a copy or a pickle.
    """

    def __init__(self):
        self.values: OrderedDict[Hashable, tuple[tuple, Any]] = OrderedDict()

    def get(self, training: bool, key: Hashable, sources: tuple[Tensor | None, ...], make: Callable[[], Any]) -> Any:
        """`make()`, or what it made before for this key and this state of `sources`."""
        sources = tuple(source for source in sources if source is not None)
        busy = training or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
        if busy or any(source.is_inference() for source in sources):
            return make()
        state = tuple((source._version, source.data_ptr(), source.dtype, source.device) for source in sources)
        kept_state, kept = self.values.get(key, (None, None))
        if kept_state != state:
            kept = make()
            self.values[key] = (state, kept)
        self.values.move_to_end(key)
        while len(self.values) > CACHED_VALUES:
            self.values.popitem(last=False)
        return kept

    def __len__(self) -> int:
        return len(self.values)

    def __deepcopy__(self, memo) -> 'EvalCache':
        return EvalCache()

    def __reduce__(self):
        return EvalCache, ()


class CachingModule(nn.Module):
    """A module that owns caches: `.train()` and `.eval()` empty them."""

    def train(self, mode: bool = True) -> 'CachingModule':
        for value in vars(self).values():
            if isinstance(value, EvalCache):
                value.values.clear()
        return super().train(mode)

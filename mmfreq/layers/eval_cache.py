"""Values derived from parameters, kept in eval mode for as long as the parameters stay as they are."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

CACHED_VALUES = 8  # of one module; the one that was not used for longest goes first


class EvalCache:
    """Derived values by key, each with the state that its sources had.

    Used in eval mode without gradients alone; a value is made again when a source was written to, replaced or moved. Not noticed:
    writing to a parameter's `.data`. Never part of a checkpoint, a copy or a pickle.
    """

    def __init__(self):
        self.values: OrderedDict[Hashable, tuple[tuple, Any]] = OrderedDict()

    def get(self, training: bool, key: Hashable, sources: tuple[Tensor, ...], make: Callable[[], Any]) -> Any:
        """`make()`, or what it made before for this key and this state of `sources`."""
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

    def clear(self) -> None:
        self.values.clear()

    def __deepcopy__(self, memo) -> 'EvalCache':
        return EvalCache()

    def __reduce__(self):
        return EvalCache, ()

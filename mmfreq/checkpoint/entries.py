"""Which entry of a checkpoint file holds the weights.

'auto' takes averaged (EMA) weights where a file has them beside the raw ones: the published numbers of AFFNet, and of HorNet on
ImageNet-1k, are theirs. timm's training script calls them `state_dict_ema`, the scripts of HorNet and GFNet `model_ema` (GFNet's
published numbers are of the raw `model`), CVNets, in which AFFNet is written, `ema_state_dict`.

mmengine's own files are the exception: its EMAHook exchanges the two when it saves, so that `state_dict` holds the averaged weights
and `ema_state_dict` the raw ones. They are told by their `message_hub` or `meta`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmfreq.compat.safe_load import CheckpointError

AVERAGED = ('state_dict_ema', 'model_ema', 'ema_state_dict')
RAW = ('state_dict', 'model', 'model_state_dict')  # the first two in the order of the published loaders
MODULE = 'module.'
MAX_DEPTH = 4  # of entries; a file can hold itself
COUNTERS = ('steps', 'n_averaged')  # of mmengine's and torch's averaged models, beside `module.`


@dataclass(frozen=True)
class Entry:
    """The weights of a checkpoint.

    Attributes:
        path: keys that lead to them; () for a bare state dict.
        state: the tensors, a `module.` prefix stripped.
        module: there was one.
        left: what stands beside them in the file.
    """

    path: tuple[str, ...]
    state: dict[str, Tensor]
    module: bool
    left: tuple[str, ...]

    @property
    def name(self) -> str:
        return '.'.join(self.path)


def choose_entry(checkpoint: Any, entry: str = 'auto', depth: int = 0) -> Entry:
    """The weights in the content of a file.

    Args:
        checkpoint: a state dict, bare or below one of the known entries.
        entry: the key to take, or 'auto'.
        depth: of the entry that is looked at, in the file.

    Raises:
        CheckpointError: no such entry, or no parameters in it.
    """
    held = [key for key in (*AVERAGED, *RAW) if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping)]
    if entry != 'auto' and not (isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(entry), Mapping)):
        there = ', '.join(held) or 'none: its parameters, if any, are bare'
        raise CheckpointError(f"the checkpoint has no entry '{entry}'; entries that hold parameters: {there}")
    if entry == 'auto' and not held:
        return _bare(checkpoint)
    if entry == 'auto':
        by_mmengine = 'state_dict' in held and ('message_hub' in checkpoint or 'meta' in checkpoint)
        entry = 'state_dict' if by_mmengine else next((key for key in held if checkpoint[key]), held[0])
    if depth == MAX_DEPTH:
        raise CheckpointError(f'the checkpoint has entries within entries, deeper than {MAX_DEPTH}: no parameters were found')
    inner = choose_entry(checkpoint[entry], depth=depth + 1)
    left = (*inner.left, *(key for key in checkpoint if key != entry))
    return Entry((entry, *inner.path), inner.state, inner.module, left)


def _bare(checkpoint: Any) -> Entry:
    if not isinstance(checkpoint, Mapping) or not any(isinstance(v, Tensor) for v in checkpoint.values()):
        got = f'keys {list(checkpoint)[:5]}' if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise CheckpointError(f'the checkpoint holds no parameters: got {got}, expected names with tensors')
    state = {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    if odd := [name for name in state if not isinstance(name, str)]:
        raise CheckpointError(f'names of parameters must be text, got {len(odd)} of another type, the first is {odd[0]!r}')
    inside = {name.removeprefix(MODULE): value for name, value in state.items() if name.startswith(MODULE)}
    module = bool(inside) and all(name.startswith(MODULE) or name in COUNTERS for name in state)
    taken = {MODULE + name for name in inside} if module else set(state)
    return Entry((), inside if module else state, module, tuple(name for name in checkpoint if name not in taken))


def unwrap(checkpoint: Any, entry: str = 'auto') -> dict[str, Tensor]:
    """The tensors of a checkpoint: the `state` of `choose_entry`."""
    return choose_entry(checkpoint, entry).state

"""What layers see and say while a model runs."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Key = TypeVar('Key', bound=Hashable)
Seen = TypeVar('Seen')


@torch.no_grad()
def observe(
    run: Callable[[], Any], modules: Mapping[Key, nn.Module], look: Callable[[nn.Module, Tensor, Tensor], Seen]
) -> dict[Key, Seen]:
    """`look(module, input, output)` of the first call of each module during `run()`, in the order of the calls.

    Without gradients. Modules that are not called are absent; the hooks are gone afterwards.
    """
    seen: dict[Key, Seen] = {}

    def hook_for(key: Key) -> Callable:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if key not in seen:
                seen[key] = look(module, args[0], output)

        return hook

    handles = [module.register_forward_hook(hook_for(key)) for key, module in modules.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen

"""Adds up the operators that run under it, by module."""

from collections import Counter, defaultdict
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmfreq.analysis.complexity_report import Macs, ModuleCost
from mmfreq.analysis.op_rules import PARTS, price, published_fft


class CallCounter(TorchDispatchMode):
    """Adds up what the operators under it cost, for the innermost module that is running and for those around it by name."""

    def __init__(self):
        super().__init__()
        self.rows: defaultdict[str, Counter] = defaultdict(Counter)  # module -> part -> multiply-adds
        self.published_fft = 0
        self.uncounted: Counter = Counter()
        self._running = ['']

    @contextmanager
    def watching(self, model: nn.Module):
        """Follows which module of `model` is running."""
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, *_) -> None:
        self._running.append(name)

    def _leave(self, *_) -> None:
        self._running.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.namespace not in ('aten', 'prim', 'prims'):
            self.uncounted[str(func.overloadpacket)] += 1
        part, macs = price(func, args, kwargs or {}, out)
        if macs:
            self.published_fft += published_fft(func, args, out)
            name = self._running[-1]
            while name:
                self.rows[name][part] += macs
                name = name.rpartition('.')[0]
            self.rows[''][part] += macs
        return out

    def modules(self, model: nn.Module) -> dict[str, ModuleCost]:
        """The counts as a row for each module of `model`."""
        found = {}
        for name, module in model.named_modules():
            macs = Macs(**{part: round(self.rows[name][part]) for part in PARTS})
            found[name] = ModuleCost(type(module).__name__, sum(p.numel() for p in module.parameters()), macs)
        return found

"""Memory of one call: the peak, and what autograd keeps from the forward pass for the backward pass.

Three numbers, in bytes; weights and input never count, gradients of the weights do in the peak of training.

- peak: the most that torch's allocator gave out at one time, above what was taken before the call. On CUDA from its statistics, on
  a CPU from the profiler's record of every allocation. Libraries' own scratch space (oneDNN, cuDNN without workspace) is not in it.
- saved: distinct storages that autograd saves. A view counts as the storage that it keeps alive. Not seen: what a custom Function
  holds as an attribute, and what checkpointing holds. None for `memory_efficient`, which has hooks of its own.
- kept: what the allocator has given out after the forward pass, while its outputs live. Everything is in it, outputs too: a check
  on `saved`, since what hides from autograd's hooks shows here.
"""

import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from mmfreq.analysis.benchmark.precision import Call


@dataclass(frozen=True)
class Memory:
    """Bytes; `saved` and `kept` are of training alone."""

    peak: int
    saved: int | None = None
    kept: int | None = None


def memory_of(call: Call) -> Memory:
    """All that is measured of one call; run it once before, so that caches are filled."""
    if not call.training:
        return Memory(allocations(call.forward, call.device)[0])
    call.clear()
    saved = None if call.entry.subject.form == 'memory_efficient' else saved_bytes(call)
    _, kept = allocations(call.forward, call.device)
    peak, _ = allocations(call, call.device)
    call.clear()
    return Memory(peak, saved, kept)


def saved_bytes(call: Call) -> int:
    """Bytes of the distinct storages that autograd saves in a forward pass, without parameters, buffers and the input."""
    own = [call.images, *call.model.parameters(), *call.model.buffers()]
    not_counted = {tensor.untyped_storage().data_ptr() for tensor in own}
    storages = {}  # held until the end, so that no address is given out twice

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        call.forward()
    return sum(storage.nbytes() for address, storage in storages.items() if address not in not_counted)


def allocations(function: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """(peak, at the end) in bytes of what the allocator gives out during a call, whose result is alive at the end."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = function()
        torch.cuda.synchronize(device)
        found = torch.cuda.max_memory_allocated(device) - before, torch.cuda.memory_allocated(device) - before
        del result
        return found
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        result = function()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == '[memory]']
    peak = live = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    del result
    return peak, live


@contextmanager
def _quiet():
    """The profiler's library writes lines of its own to the error stream."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, 'w') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

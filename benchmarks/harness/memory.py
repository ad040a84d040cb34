"""Memory of one call, in bytes, from torch's allocator and autograd.

- peak: the largest amount that the allocator held, beyond what it held before the call: on CUDA from its statistics, on a CPU
  from the profiler's record of every allocation. Scratch memory of libraries (oneDNN, cuDNN without workspace) is not included.
- saved: the distinct storages that autograd saves for the backward pass; a view counts as its storage. Not included: attributes of
  custom Functions, and what checkpointing stores. None for `memory_efficient`, which uses its own hooks.
- retained: what the allocator holds after the forward pass while its outputs exist, outputs included. It is a check of `saved`,
  because it includes what autograd's hooks do not see.

Weights and input never count; gradients of the weights count in the peak of training.
"""

import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness.entries import Call


@dataclass(frozen=True)
class Memory:
    """Bytes; `saved` and `retained` are measured in training only."""

    peak: int
    saved: int | None = None
    retained: int | None = None


def memory_of(call: Call) -> Memory:
    """The memory of one call; run it once before, so that caches are filled."""
    if not call.training:
        return Memory(allocations(call.forward, call.device)[0])
    call.clear()
    saved = None if call.entry.model.form == 'memory_efficient' else saved_bytes(call)
    _, retained = allocations(call.forward, call.device)
    peak, _ = allocations(call, call.device)
    call.clear()
    return Memory(peak, saved, retained)


def saved_bytes(call: Call) -> int:
    """Bytes of the distinct storages that autograd saves in a forward pass, without parameters, buffers and the input."""
    own = [call.images, *call.model.parameters(), *call.model.buffers()]
    not_counted = {tensor.untyped_storage().data_ptr() for tensor in own}
    storages = {}  # kept alive, so that no address is used twice

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        call.forward()
    return sum(storage.nbytes() for address, storage in storages.items() if address not in not_counted)


def allocations(function: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """(peak, at the end) in bytes of what the allocator holds during a call; at the end its result is alive."""
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
    """Suppress what the library of the profiler writes to stderr."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, 'w') as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)

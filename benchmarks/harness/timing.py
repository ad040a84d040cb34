"""Paired rounds: every candidate once in each, so that what slows the machine down for a while slows all of them.

The order turns round from one round to the next. Ratios are taken round by round, and their median and quartiles reported.
"""

import ctypes
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from multiprocessing.connection import Connection
from time import perf_counter

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness.entries import DTYPES, Call, Entry, arithmetic, images_of, made


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> 'Spread':
        low, median, high = np.percentile(list(values), (25, 50, 75))
        return cls(float(median), float(low), float(high))


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """`above` over `below`, round by round.

    Raises:
        ValueError: another number of rounds, or none.
    """
    if not above or len(above) != len(below):
        raise ValueError(f'ratios are of the same rounds, at least one; got {len(above)} and {len(below)}')
    return Spread.of(a / b for a, b in zip(above, below))


def geometric_mean(values: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log(list(values)))))


def seconds(call: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Of one call, on average over `times` in a row; waits for the device before and after."""
    _wait(device)
    start = perf_counter()
    for _ in range(times):
        call()
    _wait(device)
    return (perf_counter() - start) / times


def paired_rounds(
    calls: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, at_least: float = 0.05
) -> dict[str, list[float]]:
    """Seconds of each call in each round, all in this process; arguments as in `timed_rounds`."""
    return timed_rounds({label: partial(seconds, call, device) for label, call in calls.items()}, repeats, at_least)


def timed_rounds(timers: Mapping[str, Callable[[int], float]], repeats: int, at_least: float = 0.05) -> dict[str, list[float]]:
    """Seconds that each timer tells in each round.

    Args:
        timers: each runs its call as often as it is told, and returns the seconds of one.
        repeats: number of rounds.
        at_least: seconds that a measurement takes; a shorter call is repeated within it.
    """
    times = {label: max(1, ceil(at_least / timer(1))) for label, timer in timers.items()}  # a warm-up, too
    found: dict[str, list[float]] = {label: [] for label in timers}
    gc.collect()
    for number in range(repeats):
        for label in list(timers) if number % 2 == 0 else reversed(timers):
            found[label].append(timers[label](times[label]))
    return found


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


# Memory of one call: the peak, and what autograd keeps from the forward pass for the backward pass.
#
# Three numbers, in bytes; weights and input never count, gradients of the weights do in the peak of training.
#
# - peak: the most that torch's allocator gave out at one time, above what was taken before the call. On CUDA from its
#   statistics, on
#   a CPU from the profiler's record of every allocation. Libraries' own scratch space (oneDNN, cuDNN without workspace) is
# not in it.
# - saved: distinct storages that autograd saves. A view counts as the storage that it keeps alive. Not seen: what a custom Function
#   holds as an attribute, and what checkpointing holds. None for `memory_efficient`, which has hooks of its own.
# - kept: what the allocator has given out after the forward pass, while its outputs live. Everything is in it, outputs too: a check
#   on `saved`, since what hides from autograd's hooks shows here.


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


# The least time that the multiply-adds alone would take: their number over the rate of large matrix products on this machine.
#
# Convolutions and matrix products count (`analysis.flops`), Fourier transforms do not: a published FFT would count next to
# nothing. Training counts three times inference, as usual: forward, gradient of the input, gradient of the weights.


SIDES = {'cpu': (1024, 2048, 3072), 'cuda': (4096, 8192)}
PASSES = {'inference': 1, 'training': 3}


def matrix_rate(precision: str, device: torch.device, sides: tuple[int, ...] | None = None, repeats: int = 3) -> float:
    """Multiply-adds per second of `torch.mm` on square matrices, the best of a few.

    Args:
        sides: of the matrices; by default what keeps the device busy for a moment.
    """
    best = 0.0
    with arithmetic(precision):
        for side in sides or SIDES.get(device.type, SIDES['cpu']):
            a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
            torch.mm(a, b)
            best = max(best, *(side**3 / seconds(lambda a=a, b=b: torch.mm(a, b), device) for _ in range(repeats)))
    return best


# Each entry in a process of its own, as a user runs a model; the processes take turns.
#
# What one model leaves in the memory allocator decides how fast the next one gets its memory: the same model can take half as long
# again beside others in one process.


PATIENCE = 10  # seconds that a process gets to end


class Worker:
    """A process that times an entry on the CPU, on as many threads as this one has; a timer for `timing.timed_rounds`.

    Args:
        modest: it hands its free memory back after its turn, and warms up before the next one, where all processes together
            would not fit into memory otherwise.

    Raises:
        RuntimeError: what the process met, or that it was ended from outside.
    """

    def __init__(self, entry: Entry, modest: bool = False):
        context = _context(type(entry).__module__, *sorted(_modules_of(entry.subject.make)))
        self.entry = entry
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, entry, torch.get_num_threads(), modest), daemon=True)
        with _importable():
            self.process.start()
        theirs.close()

    def __call__(self, times: int) -> float:
        try:
            self._connection.send(times)
            found = self._connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f'{self.entry.label}: its process was ended, perhaps for want of memory') from error
        if isinstance(found, str):
            raise RuntimeError(found)
        return found

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextmanager
def workers(entries: Iterable[Entry], modest: bool = False) -> Iterator[dict[str, Worker]]:
    """A worker for each entry, by its label."""
    with ExitStack() as stack:
        found = {}
        for entry in entries:
            found[entry.label] = Worker(entry, modest)
            stack.callback(found[entry.label].close)
        yield found


def _serve(connection: Connection, entry: Entry, threads: int, modest: bool) -> None:
    """Tell the seconds of a call, averaged over as many as are asked for, until the other side closes; or what went wrong."""
    torch.set_num_threads(threads)
    call = None
    while True:
        try:
            times = connection.recv()
        except EOFError:
            return
        try:
            call = call or Call(made(entry), images_of(entry.size, entry.batch), entry)
            if modest:
                call()
            answer = seconds(call, torch.device('cpu'), times)
            if modest:
                _hand_back()
        except Exception as error:  # whatever it is, the other side has to hear of it
            answer = f'{entry.label}: {type(error).__name__}: {error}'
        connection.send(answer)


def _hand_back() -> None:
    """Give free memory in the middle of the heap back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)


def _modules_of(function: Callable) -> set[str]:
    """Modules in which a function and the functions bound into it are defined."""
    parts = [function, getattr(function, 'func', None), *getattr(function, 'args', ())]
    return {part.__module__ for part in parts if getattr(part, '__module__', None) not in (None, '__main__', 'functools')}


def _context(*modules: str) -> multiprocessing.context.BaseContext:
    """Fresh processes, with the modules imported already where the system can fork them from a server."""
    if 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(list(modules))
    return context


@contextmanager
def _importable() -> Iterator[None]:
    """The server of processes looks for modules where this process does; by itself it knows the environment's paths alone."""
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ['PYTHONPATH']
        else:
            os.environ['PYTHONPATH'] = before

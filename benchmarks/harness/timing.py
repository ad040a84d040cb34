"""Paired rounds: each round runs every candidate once, so that a slow moment of the machine affects all of them.

The order alternates from round to round. Ratios are computed round by round; their median and quartiles are reported. On a CPU each
entry runs in a process of its own (`Worker`): what one model leaves in the memory allocator changes the speed of the next, by up to
a half.
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
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.harness.entries import DTYPES, Call, Entry, build_model, matmul_precision, random_images

SIDES = {'cpu': (1024, 2048, 3072), 'cuda': (4096, 8192)}  # of the square matrices of `matrix_rate`
JOIN_SECONDS = 10  # until a worker that does not end is killed


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


class Elapsed(NamedTuple):
    """Seconds of one call: wall clock, and CPU time of all threads of the process."""

    wall: float
    cpu: float


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Ratios round by round.

    Raises:
        ValueError: the numbers of rounds differ, or are zero.
    """
    if not numerators or len(numerators) != len(denominators):
        raise ValueError(f'Ratios need the same rounds, at least one; got {len(numerators)} and {len(denominators)}.')
    return Spread.of(a / b for a, b in zip(numerators, denominators))


def geometric_mean(values: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log(list(values)))))


def seconds_per_call(call: Callable[[], object], device: torch.device, times: int = 1) -> Elapsed:
    """Seconds of one call, averaged over `times` calls; waits for the device before and after."""
    _wait(device)
    wall, cpu = perf_counter(), process_time()
    for _ in range(times):
        call()
    _wait(device)
    return Elapsed((perf_counter() - wall) / times, (process_time() - cpu) / times)


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def run_rounds(timers: Mapping[str, Callable[[int], Elapsed]], repeats: int, min_seconds: float = 0.05) -> dict[str, list[Elapsed]]:
    """What each timer returns in each round.

    Args:
        timers: each runs its call the given number of times and returns the seconds of one call.
        repeats: number of rounds.
        min_seconds: shortest time of a measurement; shorter calls are repeated.
    """
    times = {label: max(1, ceil(min_seconds / timer(1).wall)) for label, timer in timers.items()}  # also the warm-up
    found: dict[str, list[Elapsed]] = {label: [] for label in timers}
    gc.collect()
    for number in range(repeats):
        for label in list(timers) if number % 2 == 0 else reversed(timers):
            found[label].append(timers[label](times[label]))
    return found


def paired_rounds(
    calls: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, min_seconds: float = 0.05
) -> dict[str, list[float]]:
    """Seconds (wall clock) of each call in each round, all in this process; arguments as in `run_rounds`."""
    found = run_rounds(timers_of(calls, device), repeats, min_seconds)
    return {label: [elapsed.wall for elapsed in rounds] for label, rounds in found.items()}


def timers_of(calls: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, Callable[[int], Elapsed]]:
    """Timers for `run_rounds` that run the calls in this process."""
    return {label: partial(seconds_per_call, call, device) for label, call in calls.items()}


def matrix_rate(precision: str, device: torch.device, sides: tuple[int, ...] | None = None, repeats: int = 3) -> float:
    """Multiply-adds per second of `torch.mm` on square matrices, the best of several runs.

    Args:
        sides: of the matrices; default: large enough to use the device fully.
    """
    best = 0.0
    with matmul_precision(precision):
        for side in sides or SIDES.get(device.type, SIDES['cpu']):
            a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
            torch.mm(a, b)
            best = max(best, *(side**3 / seconds_per_call(lambda a=a, b=b: torch.mm(a, b), device).wall for _ in range(repeats)))
    return best


class Worker:
    """A process that times an entry on the CPU, with as many threads as this process; a timer for `run_rounds`.

    Args:
        release_memory: release free memory after each turn, and warm up before the next one, for processes that do not fit into
            memory together.

    Raises:
        RuntimeError: an error in the process, or the process was killed.
    """

    def __init__(self, entry: Entry, release_memory: bool = False):
        context = _context(type(entry).__module__, *sorted(_modules_of(entry.model.make)))
        self.entry = entry
        self._connection, child = context.Pipe()
        self.process = context.Process(target=_serve, args=(child, entry, torch.get_num_threads(), release_memory), daemon=True)
        with _importable():
            self.process.start()
        child.close()

    def __call__(self, times: int) -> Elapsed:
        try:
            self._connection.send(times)
            found = self._connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f'{self.entry.label}: its process was killed, perhaps because memory was not sufficient.') from error
        if isinstance(found, str):
            raise RuntimeError(found)
        return found

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self.process.join(JOIN_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextmanager
def workers(entries: Iterable[Entry], release_memory: bool = False) -> Iterator[dict[str, Worker]]:
    """A worker for each entry, by its label."""
    with ExitStack() as stack:
        found = {}
        for entry in entries:
            found[entry.label] = Worker(entry, release_memory)
            stack.callback(found[entry.label].close)
        yield found


def _serve(connection: Connection, entry: Entry, threads: int, release_memory: bool) -> None:
    """Send the `Elapsed` of a call, averaged over the received number of calls, or an error, until the connection closes."""
    torch.set_num_threads(threads)
    call = None
    while True:
        try:
            times = connection.recv()
        except EOFError:
            return
        try:
            call = call or Call(build_model(entry), random_images(entry.size, entry.batch), entry)
            if release_memory:
                call()
            reply = seconds_per_call(call, torch.device('cpu'), times)
            if release_memory:
                _release_free_memory()
        except Exception as error:  # of any type: the parent process raises it
            reply = f'{entry.label}: {type(error).__name__}: {error}'
        connection.send(reply)


def _release_free_memory() -> None:
    """Return free memory of the heap to the system, if the C library supports it (glibc)."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)


def _modules_of(function: Callable) -> set[str]:
    """Modules that define a function and the functions that `partial` binds to it."""
    parts = [function, getattr(function, 'func', None), *getattr(function, 'args', ())]
    return {part.__module__ for part in parts if getattr(part, '__module__', None) not in (None, '__main__', 'functools')}


def _context(*modules: str) -> multiprocessing.context.BaseContext:
    """New processes; if the system supports a fork server, it imports the modules once."""
    if 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(list(modules))
    return context


@contextmanager
def _importable() -> Iterator[None]:
    """Pass `sys.path` to the fork server, which knows only the paths of the environment."""
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ['PYTHONPATH']
        else:
            os.environ['PYTHONPATH'] = before

"""Each entry in a process of its own, as a user runs a model; the processes take turns.

What one model leaves in the memory allocator decides how fast the next one gets its memory: the same model can take half as long
again beside others in one process.
"""

import ctypes
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

import torch

from mmfreq.analysis.benchmark.precision import Call, images_of, made
from mmfreq.analysis.benchmark.subjects import Entry
from mmfreq.analysis.benchmark.timing import seconds

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

"""Write down why a process of a run failed, so that the logs of a distributed run tell which one failed first.

Without this an exception is on the launcher's terminal alone, among those of the processes that lost contact because of it.
"""

import logging
import os
import socket
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as dist
from mmengine.logging import MMLogger
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from mmfreq.errors import UserError, is_users, message_of
from mmfreq.log import process_rank

GRACE = 3.0  # seconds in which the launcher, which looks every 0.1 s, sees the process that failed first before one that followed
LOST = 'lost contact with another process'
# what gloo, NCCL and the store say of a process that is gone or does not answer; DDP turns them into plain RuntimeErrors
CONTACT = ('gloo/transport', 'by peer', 'Broken pipe', 'remote process exited', 'NCCL', 'Timed out waiting', 'Socket Timeout')


@contextmanager
def failures_logged():
    """Write an exception, with its traceback, into the run's log before it goes on; in a distributed run of every process.

    The first process writes into the log itself, the others into `rank<r>_failure.log` beside it, and all of them into torchrun's
    summary. An error that is the caller's to mend (`is_users`) goes without its traceback. A process that only lost contact says
    so, quotes what the others wrote, and waits for `GRACE` seconds, so that the launcher sees the one that failed first. In a
    distributed run `sys.exit(0)` of one process is an error too.

    Nothing is written before the Runner has made its log.
    """
    known = set(MMLogger._instance_dict)
    if 'TORCHELASTIC_ERROR_FILE' in os.environ:
        get_error_handler().initialize()  # a crash in compiled code prints where it was
    try:
        with _no_early_end():
            yield
    except Exception as error:
        if _has_peers() and is_lost_contact(error):
            _write(known, LOST, f'{_others(known)}\n{traceback.format_exc()}')
            time.sleep(GRACE)
        else:
            _write(known, type(error).__name__, message_of(error) if is_users(error) else traceback.format_exc())
        _summarise(error)
        raise


@contextmanager
def _no_early_end():
    """Make an error of the end of one process with status 0, which a launcher takes for success."""
    try:
        yield
    except SystemExit as end:
        if end.code in (None, 0) and _has_peers():
            raise RuntimeError('this process ended with status 0 before the run was over, and the others wait for it') from end
        raise


def is_lost_contact(error):
    """Whether an error says that another process of the group is gone or does not answer."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(text in str(error) for text in CONTACT))


def failure_file(log_file, rank):
    """Where a process without a log of its own writes; beside the log of the first."""
    return Path(log_file).with_name(f'rank{rank}_failure.log')


def _summarise(error):
    """Leave the exception that is being handled to torchrun's summary; without its traceback if it is the caller's to mend."""
    with suppress(OSError):
        if not is_users(error):
            get_error_handler().record_exception(error)
            return
        try:
            raise UserError(message_of(error)) from None
        except UserError as short:
            get_error_handler().record_exception(short)


def _has_peers():
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _logger(known):
    """The logger that the Runner of this run made, if it came that far."""
    made = [logger for name, logger in MMLogger._instance_dict.items() if name not in known and logger.log_file]
    return made[-1] if made else None


def _write(known, what, told):
    logger = _logger(known)
    if logger is None:
        return
    head = f'rank {process_rank()} (process {os.getpid()} on {socket.gethostname()}) failed: {what}'
    files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    file, line, function, _ = logger.findCaller()
    record = logger.makeRecord(logger.name, logging.ERROR, file, line, f'{head}\n{told}', (), None, function)
    for handler in files:  # not on the terminal, where the exception appears by itself
        handler.handle(record)
    if not files:
        stamp = time.strftime('%Y/%m/%d %H:%M:%S')
        with suppress(OSError):  # a full disk must not hide the failure itself
            failure_file(logger.log_file, process_rank()).write_text(f'{stamp} - {head}\n{told}\n')


def _others(known):
    """What other processes have written of their own failures."""
    logger = _logger(known)
    files = sorted(Path(logger.log_file).parent.glob('rank*_failure.log')) if logger else []
    first = [text for text in map(Path.read_text, files) if LOST not in text.splitlines()[0]]
    return '\n'.join(first) or (
        'No other process wrote into this folder why it failed: it was killed (out of memory, kill -9), ended without a '
        "word, hangs, or runs on a machine with a disk of its own. See the launcher's output."
    )

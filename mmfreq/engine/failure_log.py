"""Log why a process of a run failed, so that the logs of a distributed run show which one failed first.

Otherwise an exception appears only on the launcher's terminal, among those of the processes that lost contact because of it.
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

from mmfreq.errors import UserError, is_user_error, message_of
from mmfreq.log import process_rank

GRACE = 3.0  # seconds; the launcher polls every 0.1 s, and must see the process that failed first before those that followed
LOST = 'lost contact with another process'
# messages of gloo, NCCL and the store about a process that is gone or does not answer; DDP raises them as plain RuntimeErrors
CONTACT = ('gloo/transport', 'by peer', 'Broken pipe', 'remote process exited', 'NCCL', 'Timed out waiting', 'Socket Timeout')


@contextmanager
def failures_logged():
    """Write an exception and its traceback to the run's log before it propagates; in a distributed run, for every process.

    The first process writes to the log itself, the others to `rank<r>_failure.log` beside it, and all of them to torchrun's
    summary. A user error (`is_user_error`) is logged without its traceback. A process that only lost contact logs that, quotes the
    failures of the others, and waits `GRACE` seconds, so that the launcher sees the first failure first. `sys.exit(0)` of one
    process of several is an error.

    Nothing is written before the Runner has made its log.
    """
    known = set(MMLogger._instance_dict)
    if 'TORCHELASTIC_ERROR_FILE' in os.environ:
        get_error_handler().initialize()  # a crash in compiled code prints its traceback
    try:
        with _exit_0_is_an_error():
            yield
    except Exception as error:
        if _has_peers() and is_lost_contact(error):
            _write(known, LOST, f'{_failures_of_others(known)}\n{traceback.format_exc()}')
            time.sleep(GRACE)
        else:
            _write(known, type(error).__name__, message_of(error) if is_user_error(error) else traceback.format_exc())
        _record_for_torchrun(error)
        raise


@contextmanager
def _exit_0_is_an_error():
    """Raise if one process of several ends with status 0, which a launcher takes for success."""
    try:
        yield
    except SystemExit as end:
        if end.code in (None, 0) and _has_peers():
            raise RuntimeError('this process ended with status 0 before the run was over, and the others wait for it') from end
        raise


def is_lost_contact(error):
    """Whether an error means that another process of the group is gone or does not answer."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(text in str(error) for text in CONTACT))


def failure_file(log_file, rank):
    """The file, beside the log of the first process, to which another process writes its failure."""
    return Path(log_file).with_name(f'rank{rank}_failure.log')


def _record_for_torchrun(error):
    """Pass the exception that is being handled to torchrun's summary; a user error without its traceback."""
    with suppress(OSError):
        if not is_user_error(error):
            get_error_handler().record_exception(error)
            return
        try:
            raise UserError(message_of(error)) from None
        except UserError as short:
            get_error_handler().record_exception(short)


def _has_peers():
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _logger(known):
    """The logger that the Runner of this run made, if any."""
    made = [logger for name, logger in MMLogger._instance_dict.items() if name not in known and logger.log_file]
    return made[-1] if made else None


def _write(known, failure, details):
    logger = _logger(known)
    if logger is None:
        return
    head = f'rank {process_rank()} (process {os.getpid()} on {socket.gethostname()}) failed: {failure}'
    files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    file, line, function, _ = logger.findCaller()
    record = logger.makeRecord(logger.name, logging.ERROR, file, line, f'{head}\n{details}', (), None, function)
    for handler in files:  # not on the terminal, where Python prints the exception
        handler.handle(record)
    if not files:
        stamp = time.strftime('%Y/%m/%d %H:%M:%S')
        with suppress(OSError):  # a full disk must not hide the failure itself
            failure_file(logger.log_file, process_rank()).write_text(f'{stamp} - {head}\n{details}\n')


def _failures_of_others(known):
    """What other processes have logged about their own failures."""
    logger = _logger(known)
    files = sorted(Path(logger.log_file).parent.glob('rank*_failure.log')) if logger else []
    first = [text for text in map(Path.read_text, files) if LOST not in text.splitlines()[0]]
    return '\n'.join(first) or (
        'No other process logged a failure in this folder. It was killed (out of memory, kill -9), exited without an error, '
        "hangs, or runs on a host with its own disk. See the launcher's output."
    )

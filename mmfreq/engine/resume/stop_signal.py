"""Stop a run by a signal: on SIGTERM (a preempted job) or SIGUSR1 (Slurm's --signal) it saves and exits with status 75.

The status is `EX_TEMPFAIL` of sysexits.h: not finished, start it again. A second signal of the same type has no effect. SIGINT
(Ctrl-C) and SIGKILL stop a run at once; it then resumes from its last checkpoint.
"""

import logging
import signal
import threading
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children
from multiprocessing.util import Finalize

import torch
from mmengine.dist import all_reduce, barrier, get_rank, get_world_size
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from mmfreq.engine.hooks import is_training_run
from mmfreq.engine.resume.checkpoint_hook import CheckpointHook
from mmfreq.registry import HOOKS
from mmfreq.torchrun import STATUS

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

_signal_name = None  # of the signal that this process received


class Stopped(SystemExit):
    """The run saved its state and exits with status 75, as requested."""

    def __init__(self):
        super().__init__(STATUS)


@contextmanager
def stop_requests():
    """Handle SIGTERM and SIGUSR1 as requests to stop, which `stop_if_requested` grants; restores the handlers afterwards.

    Without effect outside the main thread, where Python handles no signals.
    """
    global _signal_name
    _signal_name = None
    Finalize(None, _kill_workers, exitpriority=100)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, _request_stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _signal_name = None


def _request_stop(number, _frame):
    global _signal_name
    _signal_name = signal.Signals(number).name


def stop_if_requested(runner):
    """Between two iterations: if any process of the run got a request to stop, save and exit in all of them.

    A collective call: all processes must make it. While gradients are being accumulated, the run continues to the next step.

    Raises:
        Stopped: the state is saved.
    """
    requested = _signal_name is not None
    if get_world_size() > 1:
        flag = torch.tensor(int(requested))
        all_reduce(flag, 'max')
        requested = bool(flag)
    if requested and not _is_accumulating(runner):
        _save_and_exit(runner)


@HOOKS.register_module()
class StopInValidationHook(Hook):
    """Stop on request within a validation, which may take longer than the grace period of a preempted job.

    Only the first process acts: it saves, and its exit ends the others, which may have other numbers of batches.
    """

    priority = 'LOWEST'

    def before_val(self, runner):
        loader = runner.val_dataloader
        if getattr(loader.worker_init_fn, 'func', None) is not ignore_first_sigterm:
            loader.worker_init_fn = partial(ignore_first_sigterm, loader.worker_init_fn)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if is_training_run(runner) and _signal_name is not None and get_rank() == 0 and not _is_accumulating(runner):
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook._swap_ema_parameters()  # during validation the model has the averaged weights
            _save_and_exit(runner, wait=False)


def ignore_first_sigterm(worker_init_fn, worker_id):
    """Initialize a data worker that ignores the first SIGTERM.

    A scheduler sends SIGTERM to every process of a job; the training process, which is about to save, still needs its workers. The
    second one, which torch sends to clean up, ends them.
    """
    assert get_worker_info() is not None, 'this is for data workers'
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if worker_init_fn:
        worker_init_fn(worker_id)


def _kill_workers():
    """Kill the data workers at exit: Python ends them by a SIGTERM, which they ignore, and would wait for them forever."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report a failure
    for child in active_children():
        if child.daemon:
            child.kill()


def _is_accumulating(runner):
    """Whether gradients of the last iterations are not applied yet; a checkpoint does not hold them."""
    return runner.iter % getattr(runner.optim_wrapper, '_accumulative_counts', 1) != 0


def _save_and_exit(runner, wait=True):
    meta = {'iter': runner.iter, 'epoch': runner.epoch}
    saver = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    if saver:
        saved = f'saved {saver.save_interrupted(runner, meta)}; continue with --resume'
    else:
        foreign = any(isinstance(hook, MMEngineCheckpointHook) for hook in runner.hooks)
        found = "another library's checkpoint hook" if foreign else 'no checkpoint hook'
        saved = f'nothing was saved, because the config has {found}'
    if wait:
        barrier()  # the first process to exit makes the launcher end the others, which must not be writing
    name = _signal_name or 'a signal to another process'
    print_log(f'Stopped by {name} after iteration {runner.iter}: {saved}.', logger='current', level=logging.WARNING)
    raise Stopped

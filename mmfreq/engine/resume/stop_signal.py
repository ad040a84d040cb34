"""Ask a run to stop: SIGTERM (a preempted job) or SIGUSR1 (Slurm's --signal) lets it save and end with a status of its own.

The status is 75, `EX_TEMPFAIL` of sysexits.h: not finished, start it again. A second signal of the same kind does nothing more;
SIGINT (Ctrl-C) and SIGKILL stop a run at once, and it goes on from its last checkpoint.
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

from mmfreq.engine.resume.checkpoint_hook import CheckpointHook
from mmfreq.registry import HOOKS
from mmfreq.torchrun import STATUS

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(SystemExit):
    """A run saved its state and ends, as it was asked to; the process ends with status 75."""

    def __init__(self):
        super().__init__(STATUS)


class _StopRequest:
    """Which signal this process got, if any."""

    name = None


_stop_request = _StopRequest()


@contextmanager
def stop_requests():
    """Take SIGTERM and SIGUSR1 as a request that `stop_if_asked` grants; the former handlers are back afterwards.

    Outside of the main thread, where Python takes no signals, it does nothing.
    """
    _stop_request.name = None
    Finalize(None, _kill_workers, exitpriority=100)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, _request_stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        _stop_request.name = None


def stop_if_requested(runner):
    """Between two iterations: if any process of the run was asked to stop, save and end them all.

    All processes must call it alike, as they tell each other. Where gradients are being accumulated, it waits for the step.

    Raises:
        Stopped: the state is saved.
    """
    asked = _stop_request.name is not None
    if get_world_size() > 1:
        flag = torch.tensor(int(asked))
        all_reduce(flag, 'max')
        asked = bool(flag)
    if asked and not _is_accumulating(runner):
        _save_and_end(runner)


@HOOKS.register_module()
class StopInValidationHook(Hook):
    """Grants the request to stop within a validation, which may take longer than a preempted job has.

    Only the first process acts: it alone saves, and processes may have different numbers of batches. Its end ends the others.
    """

    priority = 'LOWEST'

    def before_val(self, runner):
        loader = runner.val_dataloader
        if getattr(loader.worker_init_fn, 'func', None) is not spare_first_signal:
            loader.worker_init_fn = partial(spare_first_signal, loader.worker_init_fn)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        training = runner._train_loop is not None and not isinstance(runner._train_loop, dict)
        if training and _stop_request.name is not None and get_rank() == 0 and not _is_accumulating(runner):
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook._swap_ema_parameters()  # during validation the model has the averaged weights
            _save_and_end(runner, alone=True)


def spare_first_signal(worker_init_fn, worker_id):
    """Initialise a data worker that lets the first SIGTERM pass.

    A scheduler sends it to every process of a job, and the training process, which is about to save, would find its workers dead.
    The second one, of torch when it clears up, ends them.
    """
    assert get_worker_info() is not None, 'this is for data workers'
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if worker_init_fn:
        worker_init_fn(worker_id)


def _kill_workers():
    """Before Python ends its data workers by a SIGTERM, which they let pass, and waits for them without end."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes it for a failure
    for child in active_children():
        if child.daemon:
            child.kill()


def _is_accumulating(runner):
    """Whether the gradients of the last iterations are still to be applied; a checkpoint does not hold them."""
    return runner.iter % getattr(runner.optim_wrapper, '_accumulative_counts', 1) != 0


def _request_stop(number, _frame):
    _stop_request.name = signal.Signals(number).name


def _save_and_end(runner, alone=False):
    meta = {'iter': runner.iter, 'epoch': runner.epoch}
    saver = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    if saver:
        saved = f'saved {saver.save_interrupted(runner, meta)}; go on with --resume'
    else:
        theirs = any(isinstance(hook, MMEngineCheckpointHook) for hook in runner.hooks)
        saved = 'nothing was saved, as the config has ' + ("another library's checkpoint hook" if theirs else 'no checkpoint hook')
    if not alone:
        barrier()  # the first process to end makes the launcher end the others, which must not be in the middle of writing
    name = _stop_request.name or 'a signal to another process'
    print_log(f'Asked to stop by {name} after iteration {runner.iter}: {saved}.', logger='current', level=logging.WARNING)
    raise Stopped

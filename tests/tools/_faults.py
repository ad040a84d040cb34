"""The faults of test_failing_ranks.py, in one process of a run; its configs import this module by `custom_imports`."""

import os
import signal
import sys
import time
from pathlib import Path

from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS

from mmfreq.errors import DataError


def raise_deep():
    raise LookupError('the planted fault')


def raise_user_error():
    raise DataError('the planted fault of the user')


FAULTS = {
    'exception': raise_deep,
    'user': raise_user_error,
    'kill': lambda: os.kill(os.getpid(), signal.SIGKILL),
    'exit': lambda: sys.exit(0),
    'vanish': lambda: os._exit(0),
}


def strike(fault, note):
    """Write down the time, which the test compares with the end of the job, and fail."""
    Path(note).write_text(f'{time.time()} {os.getpid()}')
    FAULTS[fault]()


@HOOKS.register_module()
class FaultHook(Hook):
    """Fails in one rank, before training (`iteration` None) or before an iteration, counted from 0."""

    def __init__(self, fault, rank, note, iteration=None):
        self.fault, self.rank, self.note, self.iteration = fault, rank, note, iteration

    def before_train(self, runner):
        if self.iteration is None and runner.rank == self.rank:
            strike(self.fault, self.note)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == self.iteration and runner.rank == self.rank:
            strike(self.fault, self.note)


@TRANSFORMS.register_module()
class FaultyTransform(BaseTransform):
    """Fails in the data workers of one rank."""

    def __init__(self, fault, rank, note):
        self.fault, self.rank, self.note = fault, rank, note

    def transform(self, results):
        if os.environ['RANK'] == str(self.rank):
            strike(self.fault, self.note)
        return results

"""A server for training runs that are killed: it imports everything once, and forks one run for each request.

python _runs_to_kill.py < requests > answers, one JSON object a line. A request has `config`, `work_dir`, `options` (of
`mmfreq.engine.launch.train`), `out` (a file for the output of the run), and when it is killed: `point` and `count` (in the count-th
call of one of `POINTS`), or `after` (seconds after training has begun); and the `signal`. The answer is its exit status, -N for
signal N, and its output.
"""

import builtins
import gc
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from mmengine.hooks import checkpoint_hook
from mmengine.model import BaseModel
from short_runs import shorten  # on the path: not `tests.short_runs`, because mmsegmentation installs a package `tests`

import mmfreq  # noqa: F401
from mmfreq.compat import stack
from mmfreq.engine.launch import train
from mmfreq.engine.resume import atomic_files, loops
from mmfreq.errors import short_user_errors
from mmfreq.preflight import run as preflight

torch.set_num_threads(1)
for library in ('mmseg.models', 'mmseg.datasets', 'mmseg.evaluation', 'mmdet.models'):  # once here, not in every run
    importlib.import_module(library)
shorten(setattr)
stack.ops_that_mmcv_loads()
preflight.OF_MODEL = ()  # the checks are not interrupted here
gc.freeze()  # imported objects stay shared by the forks


class Killer:
    """Kills this process in its count-th call."""

    def __init__(self, count, number):
        self.left, self.number = count, number

    def __call__(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)

    def before(self, function):
        def call(*args, **kwargs):
            self()
            return function(*args, **kwargs)

        return call

    def after(self, function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            self()
            return result

        return call


def in_forward(kill):
    BaseModel.parse_losses = kill.before(BaseModel.parse_losses)


def after_the_step(kill):
    torch.optim.AdamW.step = kill.after(torch.optim.AdamW.step)


def in_validation(kill):
    BaseModel.val_step = kill.after(BaseModel.val_step)


def in_a_checkpoint(kill):
    """When half of its bytes are written."""

    class Half:
        def __init__(self, *args):
            self.file = builtins.open(*args)  # noqa: SIM115  (closed by its own __exit__)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            kill()
            self.file.write(content[len(content) // 2 :])

    atomic_files.open = Half


def before_the_rename(kill):
    atomic_files.os = _with(os, fsync=kill.after(os.fsync))


def after_the_rename(kill):
    atomic_files.os = _with(os, replace=kill.after(os.replace))


def in_the_note(kill):
    """`last_checkpoint` is opened, and empty."""
    checkpoint_hook.open = kill.after(builtins.open)


def disk_full(kill):
    """No signal: the count-th write finds no space."""

    def fsync(descriptor):
        kill.left -= 1
        if kill.left == 0:
            raise OSError(28, 'No space left on device')

    atomic_files.os = _with(os, fsync=fsync)


POINTS = [in_forward, after_the_step, in_validation, in_a_checkpoint, before_the_rename, after_the_rename, in_the_note, disk_full]
POINTS = {point.__name__: point for point in POINTS}


class _with:
    """A module with some of its functions replaced."""

    def __init__(self, module, **replaced):
        self.module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name):
        return getattr(self.module, name)


def run(request, begun):
    """In the fork: never returns."""
    with open(request['out'], 'ab', 0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    number = getattr(signal, request.get('signal', 'SIGKILL'))
    if 'point' in request:
        POINTS[request['point']](Killer(request['count'], number))
    hook_train = loops.seed_everything

    def first_iteration(*key):
        os.write(begun, b'.')
        return hook_train(*key)

    loops.seed_everything = first_iteration
    status = 1
    try:
        with short_user_errors():
            train(request['config'], work_dir=request['work_dir'], **request.get('options', {}))
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def answer(request):
    reader, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        run(request, begun)
    os.close(begun)
    if 'after' in request:
        os.read(reader, 1)  # returns at once if the run ended before its first iteration
        time.sleep(request['after'])
        os.kill(pid, getattr(signal, request.get('signal', 'SIGKILL')))
    _, status = os.waitpid(pid, 0)
    os.close(reader)
    return {'status': os.waitstatus_to_exitcode(status), 'printed': Path(request['out']).read_text(errors='replace')}


if __name__ == '__main__':
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)

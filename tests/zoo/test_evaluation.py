"""An evaluation in a process of its own: it always has an outcome, and ends with its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmfreq.compat.safe_load import CheckpointError
from mmfreq.errors import UserError
from mmfreq.zoo.evaluation import CONVERTED, TRAINED, Job, evaluate_in_subprocess, origin_of, reason_of, refuse_not_finite, seed_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def job(tmp_path):
    return Job('config.py', str(tmp_path / 'ck' / 'x.pth'), str(tmp_path / 'out'))


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Replaces Python by a shell script."""

    def replaced(script):
        path = tmp_path / 'python'
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setattr(sys, 'executable', str(path))

    return replaced


@pytest.mark.parametrize(
    ('script', 'facts'),
    [
        ('kill -9 $$', ('SIGKILL', 'memory')),
        ('kill -SEGV $$', ('SIGSEGV',)),
        ('exit 3', ('status 3',)),
        ('exit 0', ('status 0',)),
    ],
)
def test_a_process_that_dies_is_reported_and_its_log_is_kept(job, child, script, facts):
    child(f'echo last words; {script}')
    outcome = evaluate_in_subprocess(job)
    assert all(fact in outcome.reason for fact in facts) and not outcome.metrics
    assert (Path(job.folder) / 'log.txt').read_text() == 'last words\n'


def test_the_outcome_of_an_earlier_run_is_not_used(job, child):
    folder = Path(job.folder)
    folder.mkdir()
    (folder / 'outcome.json').write_text('{"metrics": {"mIoU": 50.0}}')
    child('exit 1')
    assert evaluate_in_subprocess(job).reason


def test_the_outcome_is_read_from_the_file(job, child):
    child("""echo '{"metrics": {"mIoU": 50.0}, "hardware": "CPU"}' > $3/outcome.json""")
    outcome = evaluate_in_subprocess(job)
    assert (outcome.metrics, outcome.reason, outcome.hardware) == ({'mIoU': 50.0}, '', 'CPU')


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'timed out'
        time.sleep(0.05)


def test_ctrl_c_ends_the_process(job, child):
    child('echo $$; exec sleep 60')
    log = Path(job.folder) / 'log.txt'

    def interrupt(*_):
        if log.is_file() and log.read_text():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            evaluate_in_subprocess(job)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert gone(int(log.read_text()))


@pytest.mark.slow
def test_the_process_ends_when_its_parent_is_killed(tmp_path):
    pid = tmp_path / 'pid'
    inner = f'import os, pathlib, time; from mmfreq.zoo.evaluation import _end_with_parent; _end_with_parent(); pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)'  # fmt: skip # noqa: E501
    outer = f'import subprocess, sys; subprocess.Popen([sys.executable, "-c", {inner!r}], stdin=subprocess.PIPE).wait()'
    started = subprocess.Popen([sys.executable, '-c', outer], cwd=ROOT, start_new_session=True)
    wait_for(lambda: pid.is_file() and pid.read_text())
    started.kill()
    started.wait()
    wait_for(lambda: gone(int(pid.read_text())))


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (
            UserError('the checkpoint {file} does not fit the model: it fills 3 of 9.\n  more'),
            'the checkpoint does not fit the model: it fills 3 of 9',
        ),
        (CheckpointError('no such thing'), 'CheckpointError: no such thing'),  # not raised by code of mmfreq
        (KeyError('x'), "KeyError: 'x'"),
        (AssertionError(), 'AssertionError: AssertionError'),
        (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB'), 'out of memory'),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), 'out of memory'),
        (MemoryError(), 'out of memory'),
    ],
)
def test_errors_become_one_line(job, error, reason):
    error.args = tuple(arg.replace('{file}', job.checkpoint) for arg in error.args)
    assert reason_of(error, job) == reason


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_nan_and_infinite_weights_are_refused(value):
    weights = {'a.weight': torch.ones(3, 3), 'a.count': torch.tensor(3), 'a.half': torch.full((4,), 60000.0, dtype=torch.float16)}
    refuse_not_finite(weights)
    weights['a.weight'][1, 1] = value
    with pytest.raises(UserError, match=r'1 of 3 tensors .*: a\.weight'):
        refuse_not_finite(weights)


def test_origin_of_weights():
    trained = {'meta': {'experiment_name': 'hornet-tiny_20261121_103000'}, 'state_dict': {}}
    converted = ({'model': {}}, {'state_dict': {}, 'meta': {'CLASSES': ['a']}}, {'state_dict': {}, 'meta': {'mmfreq': {}}})
    assert [origin_of(content) for content in (trained, *converted)] == [TRAINED, CONVERTED, CONVERTED, CONVERTED]


def test_seed_of_training_runs():
    meta = {'experiment_name': 'hornet-tiny_20261121_103000'}
    assert [seed_of({'meta': each}) for each in ({**meta, 'seed': 0}, meta, {'seed': 0})] == [0, None, None]

"""An evaluation in a process of its own: however that ends there is an outcome, and it does not outlive who started it."""

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
from mmfreq.zoo.evaluation import Job, evaluate_apart, reason_of, refuse_broken_weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def job(tmp_path):
    return Job('config.py', str(tmp_path / 'ck' / 'x.pth'), str(tmp_path / 'out'))


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Puts a shell script in the place of Python."""

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
def test_a_process_that_dies_is_told_and_its_words_are_kept(job, child, script, facts):
    child(f'echo last words; {script}')
    outcome = evaluate_apart(job)
    assert all(fact in outcome.reason for fact in facts) and not outcome.metrics
    assert (Path(job.folder) / 'log.txt').read_text() == 'last words\n'


def test_an_outcome_of_an_earlier_try_is_not_taken(job, child):
    folder = Path(job.folder)
    folder.mkdir()
    (folder / 'outcome.json').write_text('{"metrics": {"mIoU": 50.0}}')
    child('exit 1')
    assert evaluate_apart(job).reason


def test_what_the_process_leaves_is_the_outcome(job, child):
    child("""echo '{"metrics": {"mIoU": 50.0}, "hardware": "CPU"}' > $3/outcome.json""")
    outcome = evaluate_apart(job)
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
        assert time.monotonic() < end, 'it did not happen'
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
            evaluate_apart(job)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert gone(int(log.read_text()))


@pytest.mark.slow
def test_the_process_ends_when_who_started_it_is_killed(tmp_path):
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
        (CheckpointError('no such thing'), 'CheckpointError: no such thing'),  # it did not come from mmfreq's code
        (KeyError('x'), "KeyError: 'x'"),
        (AssertionError(), 'AssertionError: AssertionError'),
        (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB'), 'out of memory'),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), 'out of memory'),
        (MemoryError(), 'out of memory'),
    ],
)
def test_an_error_in_one_line(job, error, reason):
    error.args = tuple(arg.replace('{file}', job.checkpoint) for arg in error.args)
    assert reason_of(error, job) == reason


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    path = tmp_path / 'x.pth'
    weights = {'a.weight': torch.ones(3, 3), 'a.count': torch.tensor(3), 'a.half': torch.full((4,), 60000.0, dtype=torch.float16)}
    torch.save(weights, path)
    refuse_broken_weights(str(path))
    weights['a.weight'][1, 1] = value
    torch.save(weights, path)
    with pytest.raises(UserError, match=r'1 of 3 tensors .*: a\.weight'):
        refuse_broken_weights(str(path))

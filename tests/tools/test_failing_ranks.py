"""A process that fails ends the whole job within seconds, and the logs show which process it was and why.

The job would train for hours, so only the fault can end it. The limit leaves room for a busy host.
"""

import re
import time
from pathlib import Path

import pytest

from mmfreq.engine.failure_log import LOST
from tests.tools._light_run import write_light_config

HERE = Path(__file__).parent
LIMIT = 240  # seconds from the fault to the end of the job
DEEP = 'LookupError: the planted fault'
LOST_BY_0 = f'rank 0 .* failed: {LOST}'
NO_REASON = 'No other process logged a failure'


@pytest.fixture
def fail(dist_train, free_port, tmp_path):
    """Runs a job of two processes a node in which rank 1 fails; returns the output, the main log, and rank 1's own log or None."""

    def run(fault, in_worker=False, nodes=1, **options):
        note = tmp_path / 'note'
        spec = {'fault': fault, 'rank': 1, 'note': str(note)} | options
        config = write_light_config(
            tmp_path / 'light.py',
            '_faults',
            max_iters=10**8,
            num_workers=1,
            pipeline=[{'type': 'FaultyTransform', **spec}] if in_worker else [],
            custom_hooks=[] if in_worker else [{'type': 'FaultHook', **spec}],
        )
        command = (config, 2, '--work-dir', tmp_path / 'work')
        port = {'PORT': free_port, 'NNODES': nodes} if nodes > 1 else {}
        jobs = [dist_train(*command, PYTHONPATH=HERE, NODE_RANK=node, **port) for node in range(nodes)]
        statuses, outputs = zip(*(job.wait() for job in jobs))
        printed = ''.join(outputs)
        assert note.exists(), printed[-5000:]
        took = time.time() - float(note.read_text().split()[0])
        print(f'{fault}: the job ended {took:.1f} s after the fault')
        assert all(statuses) and took < LIMIT
        (log,) = (tmp_path / 'work').glob('*/[0-9]*.log')
        own = log.with_name('rank1_failure.log')
        assert_nothing_is_left(tmp_path)
        return printed, log.read_text(), own.read_text() if own.exists() else None

    return run


def assert_nothing_is_left(tmp_path):
    """No process has the folder in its command, data workers of a killed rank included, which check for their parent every 5 s."""
    until = time.time() + 20
    while left := [path.parent.name for path in Path('/proc').glob('[0-9]*/cmdline') if str(tmp_path) in content(path)]:
        assert time.time() < until, left
        time.sleep(0.2)


def content(path):
    try:
        return path.read_bytes().decode(errors='replace')
    except OSError:  # it ended in between
        return ''


def summary(printed):
    """torchrun's report of the process that failed first."""
    return printed.split('Root Cause (first observed failure):')[1]


@pytest.mark.slow
def test_exception_in_one_process(fail):
    printed, log, own = fail('exception', iteration=2)
    assert f'[rank1]: {DEEP}' in printed
    assert 'rank      : 1 ' in summary(printed) and DEEP in summary(printed)
    assert re.match(r'\S+ \S+ - rank 1 \(process \d+ on .*\) failed: LookupError\nTraceback', own) and 'in raise_deep' in own
    found = re.search(LOST_BY_0, log)
    assert found is None or own.splitlines()[0] in log[found.end() :]  # unless the launcher ended rank 0 before it noticed


@pytest.mark.slow
def test_exception_in_a_data_worker_of_one_process(fail):
    """It names the sample, and is a user error."""
    printed, _, own = fail('exception', in_worker=True)
    pattern = r'train_\d+\.jpg.*\n?.*LookupError: the planted fault'
    assert re.search(pattern, own) and re.search(pattern, summary(printed))
    assert re.search(r'rank +: 1 .*\n +exitcode +: 2 ', summary(printed))


@pytest.mark.slow
def test_user_error_in_one_process(fail):
    """Before training, where the other process waits for the first iteration."""
    printed, _, own = fail('user', iteration=None)
    assert 'error: the planted fault of the user' in printed and '[rank1]: Traceback' not in printed
    assert re.search(r'rank +: 1 .*\n +exitcode +: 2 ', summary(printed))
    assert own.splitlines()[1:] == ['the planted fault of the user']


@pytest.mark.slow
def test_killed_process(fail):
    printed, log, own = fail('kill', iteration=2)
    assert 'Signal 9 (SIGKILL) received' in summary(printed) and 'rank      : 1 ' in summary(printed)
    assert own is None
    found = re.search(LOST_BY_0, log)
    assert found is None or NO_REASON in log[found.end() :]


@pytest.mark.slow
def test_killed_process_on_another_node(fail):
    """Its own launcher notices; the processes of the other node only lose contact."""
    printed, log, own = fail('kill', iteration=2, nodes=2, rank=3)
    assert 'rank      : 3 ' in printed and 'Signal 9 (SIGKILL) received' in printed
    found = re.search(LOST_BY_0, log)  # on a busy machine the launcher may end the processes first
    assert found is None or NO_REASON in log[found.end() :]
    assert own is None or f'failed: {LOST}' in own


@pytest.mark.slow
def test_process_that_exits_early_with_status_0(fail):
    printed, _, own = fail('exit', iteration=2)
    assert 'ended with status 0' in own
    assert 'ended with status 0' in summary(printed) and 'rank      : 1 ' in summary(printed)


@pytest.mark.slow
def test_process_that_vanishes_with_status_0(fail):
    """The launcher takes it for success; the other processes fail."""
    printed, log, own = fail('vanish', iteration=2)
    assert own is None and NO_REASON in log[re.search(LOST_BY_0, log).end() :]
    assert 'rank      : 0 ' in summary(printed) and 'by peer' in summary(printed)

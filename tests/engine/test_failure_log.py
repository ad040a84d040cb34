"""What a failure writes to the logs; tests/tools/test_failing_ranks.py has complete jobs that fail."""

import json
import sys

import pytest
import torch.distributed as dist
from mmengine.logging import MMLogger

from mmfreq.engine import failure_log
from mmfreq.engine.failure_log import failure_file, failures_logged
from mmfreq.errors import DataError

GLOO = '[/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:1'


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Loggers of this test only, no waiting, and torchrun's file for the summary."""
    monkeypatch.setattr(MMLogger, '_instance_dict', type(MMLogger._instance_dict)())
    monkeypatch.setattr(failure_log, 'GRACE', 0.0)
    monkeypatch.setattr(failure_log, 'get_error_handler', lambda: Handler())
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'error.json'))
    return monkeypatch


class Handler(type(failure_log.get_error_handler())):
    """torchrun's error handler without Python's fault handler, because pytest has its own."""

    def initialize(self):
        pass


def fail(tmp_path, error, rank=0, peers=False, environment=None, makes_log=True):
    """(error, log, torchrun's summary) of a run that fails in the process of a rank."""
    log = tmp_path / 'run.log'
    environment.setenv('RANK', str(rank))
    environment.setattr(failure_log, '_has_peers', lambda: peers)
    with pytest.raises(BaseException) as raised, failures_logged():
        if makes_log:
            MMLogger.get_instance(f'run {rank}', log_file=str(log) if rank == 0 else None)._log_file = str(log)
        if error == 0:
            sys.exit(0)
        raise error
    written = failure_file(log, rank) if rank else log
    summary = tmp_path / 'error.json'
    text = json.loads(summary.read_text())['message']['extraInfo']['py_callstack'] if summary.exists() else None
    return raised.value, written.read_text() if written.exists() else None, text


def test_first_process_writes_its_traceback_to_the_log(tmp_path, environment, capsys):
    error, log, summary = fail(tmp_path, LookupError('deep'), environment=environment)
    assert isinstance(error, LookupError)
    assert 'rank 0 (process ' in log and 'failed: LookupError' in log and 'in fail\n    raise error\nLookupError: deep' in log
    assert 'LookupError: deep' in summary
    assert 'deep' not in capsys.readouterr().out  # Python itself prints it


def test_other_processes_write_their_own_file(tmp_path, environment):
    _, log, summary = fail(tmp_path, LookupError('deep'), rank=2, environment=environment)
    assert 'rank 2 (process ' in log and log.rstrip().endswith('LookupError: deep') and 'LookupError: deep' in summary
    assert not (tmp_path / 'run.log').exists()


def test_user_errors_have_no_traceback(tmp_path, environment):
    _, log, summary = fail(tmp_path, DataError('labels are wrong'), rank=1, environment=environment)
    assert log.splitlines()[1:] == ['labels are wrong']
    assert summary.count('File ') == 1 and summary.rstrip().endswith('labels are wrong')


def test_nothing_is_written_before_the_log_exists(tmp_path, environment):
    _, log, summary = fail(tmp_path, LookupError('early'), environment=environment, makes_log=False)
    assert log is None and 'LookupError: early' in summary


def test_lost_contact_quotes_the_first_failure(tmp_path, environment):
    fail(tmp_path, LookupError('deep'), rank=1, peers=True, environment=environment)
    fail(tmp_path, RuntimeError(GLOO), rank=2, peers=True, environment=environment)
    error, log, _ = fail(tmp_path, RuntimeError(GLOO), peers=True, environment=environment)
    assert str(error) == GLOO
    head, *rest = log.split('\n', 1)
    assert head.endswith('failed: lost contact with another process')
    assert 'rank 1 (process ' in rest[0] and 'LookupError: deep' in rest[0] and 'rank 2' not in rest[0]


def test_lost_contact_without_a_known_failure(tmp_path, environment):
    _, log, _ = fail(tmp_path, dist.DistBackendError('NCCL error'), peers=True, environment=environment)
    assert 'No other process logged a failure in this folder' in log
    _, log, _ = fail(tmp_path, RuntimeError(GLOO), rank=3, environment=environment)
    assert 'failed: RuntimeError' in log  # a process without peers cannot lose contact


def test_exit_with_status_0_is_an_error_if_others_wait(tmp_path, environment):
    error, log, summary = fail(tmp_path, 0, rank=1, peers=True, environment=environment)
    assert isinstance(error, RuntimeError) and isinstance(error.__cause__, SystemExit)
    assert 'ended with status 0 before the run was over' in log and 'ended with status 0' in summary
    assert isinstance(fail(tmp_path, 0, environment=environment)[0], SystemExit)
    assert fail(tmp_path, SystemExit(75), peers=True, environment=environment)[0].code == 75


def test_full_disk_does_not_hide_the_failure(tmp_path, environment):
    environment.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'none' / 'error.json'))
    environment.setattr(failure_log, 'failure_file', lambda log, rank: tmp_path / 'none' / 'rank.log')
    environment.setenv('RANK', '1')
    with pytest.raises(LookupError), failures_logged():
        MMLogger.get_instance('run')._log_file = str(tmp_path / 'run.log')
        raise LookupError('deep')

import socket

import pytest
import torch.distributed as dist

from mmfreq import log
from mmfreq.engine.processes import VARIABLES, init_cpu_group
from mmfreq.errors import UserError

ALL = [name for names in VARIABLES.values() for name in names] + ['MASTER_ADDR', 'MASTER_PORT']


@pytest.fixture
def environment(monkeypatch):
    for name in ALL:
        monkeypatch.setenv(name, 'restored afterwards')
        monkeypatch.delenv(name)
    return monkeypatch


def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize('launcher', sorted(VARIABLES))
def test_variables_of_the_launcher_that_are_missing_are_named(environment, launcher):
    environment.setenv(VARIABLES[launcher][0], '0')
    with pytest.raises(UserError, match=f'{VARIABLES[launcher][1]}, {VARIABLES[launcher][2]} not set'):
        init_cpu_group(launcher, {})


@pytest.mark.parametrize('launcher', sorted(VARIABLES))
def test_a_group_of_one_is_joined_by_every_launcher(environment, launcher):
    for name, value in zip(VARIABLES[launcher], '010'):
        environment.setenv(name, value)
    environment.setenv('MASTER_ADDR', '127.0.0.1')
    init_cpu_group(launcher, {'port': free_port(), 'timeout': 20})
    try:
        assert (dist.get_backend(), dist.get_rank(), dist.get_world_size()) == ('gloo', 0, 1)
        init_cpu_group(launcher, {})  # a second call leaves the group alone
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize('name', log.RANK_VARIABLES)
def test_only_the_first_process_speaks(environment, name):
    said = []
    environment.setattr(log, 'print_log', lambda message, **_: said.append(message))
    log.log_once('alone')
    environment.setenv(name, '0')
    log.log_once('first')
    environment.setenv(name, '1')
    log.log_once('second')
    assert said == ['alone', 'first']

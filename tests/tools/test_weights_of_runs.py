"""What a training run starts from: a given file, a URL that answers, nothing that answers, or random values on request.

The config is that of a small segmentor which names the published file of the headline config; the file holds a small model.
"""

import socket
import time

import pytest
import torch
from mmengine.config import Config

import mmfreq
from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.engine.launch import prepare_train, train
from mmfreq.preflight.report import Report
from mmfreq.preflight.run import check_weights
from mmfreq.testing.toy_segmentation import toy_segmentor, write_toy_config
from mmfreq.weights.store import MissingWeightsError
from tests.weights.loopback import Resource, saved, serving

NAME = 'mmfreq://hornet-tiny-gf/in1k-dense'
FILE = 'hornet-tiny-gf_in1k-dense.pth'
STILL = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.0}}  # the weights stay what the run starts from


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_toy_ade20k(root, train=4, val=2, size=(64, 64))
    return root


@pytest.fixture(scope='module')
def content():
    torch.manual_seed(1)
    return {'model': mmfreq.build_classifier('hornet-micro').state_dict()}


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    for name in ('MMFREQ_WEIGHTS', 'MMFREQ_OFFLINE', 'http_proxy', 'https_proxy', 'all_proxy', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)


def write_config(folder, data, source=NAME):
    model = toy_segmentor('GN')
    model['backbone']['init_cfg'] = {'type': 'Pretrained', 'checkpoint': source}
    return write_toy_config(folder / 'toy.py', data, max_iters=1, model=model, optim_wrapper=STILL)


def started_from(work_dir, content):
    """Whether the backbone of a run that changes no weights has the weights of the file."""
    state = torch.load(work_dir / 'iter_1.pth', weights_only=True)['state_dict']
    shared = {name: value for name, value in content['model'].items() if f'backbone.{name}' in state}
    assert len(shared) > 50
    return all(torch.equal(state[f'backbone.{name}'], value) for name, value in shared.items())


def log_of(work_dir):
    (path,) = work_dir.glob('*/*.log')
    return path.read_text(encoding='utf-8')


@pytest.mark.slow
def test_a_given_file(data, content, tmp_path, monkeypatch):
    (tmp_path / 'given').mkdir()
    torch.save(content, tmp_path / 'given' / FILE)
    monkeypatch.setenv('MMFREQ_WEIGHTS', str(tmp_path / 'given'))
    train(write_config(tmp_path, data), work_dir=tmp_path / 'work')
    assert started_from(tmp_path / 'work', content)
    assert f'The backbone starts from {NAME}, the file {tmp_path / "given" / FILE}.' in log_of(tmp_path / 'work')
    # resuming needs no file
    monkeypatch.delenv('MMFREQ_WEIGHTS')
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    cfg = prepare_train(write_config(tmp_path, data), work_dir=tmp_path / 'work', resume='latest')
    assert cfg.load_from.endswith('iter_1.pth') and 'init_cfg' not in cfg.model.backbone


@pytest.mark.slow
def test_from_scratch(data, content, tmp_path, monkeypatch):
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    train(write_config(tmp_path, data), work_dir=tmp_path / 'work', from_scratch=True)
    assert not started_from(tmp_path / 'work', content)
    assert 'The backbone starts from random values.' in log_of(tmp_path / 'work')


@pytest.fixture
def silent_proxy(monkeypatch):
    """Every connection goes to a host that accepts it and never answers."""
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        listening.listen(64)
        for name in ('http_proxy', 'https_proxy'):
            monkeypatch.setenv(name, f'http://127.0.0.1:{listening.getsockname()[1]}')
        yield


def test_no_network(data, tmp_path, silent_proxy):
    config = write_config(tmp_path, data)
    before = time.monotonic()
    with pytest.raises(MissingWeightsError) as error:
        check_weights(Config.fromfile(config), Report())
    assert time.monotonic() - before < 10
    for part in (NAME, 'no answer within 7 s', 'https://cloud.tsinghua.edu.cn/f/511faad0bde94dfcaa54/', FILE, '--from-scratch'):
        assert part in str(error.value)


def test_a_name_that_is_not_resolved(data, tmp_path, monkeypatch):
    """A resolver that does not answer has no timeout of its own."""
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *args, **kwargs: time.sleep(30))
    before = time.monotonic()
    with pytest.raises(MissingWeightsError, match='no answer within 7 s'):
        check_weights(Config.fromfile(write_config(tmp_path, data)), Report())
    assert time.monotonic() - before < 10


def test_the_tool_without_a_network(data, tmp_path, tool_main, monkeypatch, capsys):
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    config = write_config(tmp_path, data)
    with pytest.raises(SystemExit) as stopped:
        tool_main('train')([config, '--work-dir', str(tmp_path / 'work')])
    assert stopped.value.code == 2
    assert 'error: The weights mmfreq://hornet-tiny-gf/in1k-dense are not on this machine' in capsys.readouterr().err
    assert not (tmp_path / 'work').exists() and not (tmp_path / 'torch').exists()


@pytest.mark.slow
def test_a_url_is_fetched_once_by_two_processes(data, content, dist_train, tmp_path):
    with serving() as server:
        server.files['/w.pth'] = Resource(saved(content))
        config = write_config(tmp_path, data, server.url('/w.pth'))
        status, printed = dist_train(config, 2, '--work-dir', tmp_path / 'work', TORCH_HOME=tmp_path / 'torch').wait()
        assert status == 0, printed
        assert len([asked for _, asked in server.requests if not asked]) == 1
    assert started_from(tmp_path / 'work', content)
    assert 'The backbone starts from' in log_of(tmp_path / 'work')


@pytest.mark.slow
def test_two_processes_and_a_dead_url(data, dist_train, tmp_path):
    with serving() as server:
        config = write_config(tmp_path, data, server.url('/gone.pth'))
        status, printed = dist_train(config, 2, '--work-dir', tmp_path / 'work', TORCH_HOME=tmp_path / 'torch').wait()
    assert status == 2 and 'the server answered 404' in printed and '--from-scratch' in printed
    assert not (tmp_path / 'work').exists()

"""What the headline config starts from: a given file, a URL that answers, nothing that answers, or random values on request.

One iteration on generated images of 64 x 64, with a learning rate of zero: the weights stay what the run starts from.
"""

import socket
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import mmfreq
from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.engine.launch import prepare_train, train
from mmfreq.preflight.report import Report
from mmfreq.preflight.run import check_weights
from mmfreq.weights.store import MissingWeightsError
from tests.weights.loopback import Resource, saved, serving

HEADLINE = str(Path(mmfreq.__file__).parents[1] / 'configs/upernet_hornet_ade20k.py')
NAME = 'mmfreq://hornet-tiny-gf/in1k-dense'
FILE = 'hornet-tiny-gf_in1k-dense.pth'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_toy_ade20k(root, train=4, val=2, size=(64, 64))
    return root


@pytest.fixture(scope='module')
def content():
    torch.manual_seed(1)
    return {'model': mmfreq.build_classifier('hornet-tiny-gf', num_classes=10).state_dict()}


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    for name in ('MMFREQ_WEIGHTS', 'MMFREQ_OFFLINE', 'http_proxy', 'https_proxy', 'all_proxy', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)


def options(data, **changes):
    """What makes one iteration of the headline config small enough for a CPU; the model and its init_cfg stay."""
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    small = {f'{loader}.dataset.data_root': str(data) for loader in loaders} | {f'{loader}.num_workers': 0 for loader in loaders}
    small |= {f'{loader}.persistent_workers': False for loader in loaders}
    small |= {'train_dataloader.dataset.pipeline.2.scale': (64, 64), 'train_dataloader.dataset.pipeline.3.crop_size': (64, 64)}
    small |= {f'{loader}.dataset.pipeline.1.scale': (64, 64) for loader in loaders[1:]}
    small |= {'train_dataloader.batch_size': 2, 'model.data_preprocessor.size': (64, 64), 'train_cfg.max_iters': 1}
    return small | {'optim_wrapper.optimizer.lr': 0.0, 'default_hooks.checkpoint.interval': 1} | changes


def as_arguments(given):
    """The options as arguments of tools/train.py."""
    return ['--cfg-options', *(f'{name}={value}'.replace(' ', '') for name, value in given.items())]


def started_from(work_dir, content):
    """Whether the backbone of a run that changes no weights has those of the file; its filters are of another size."""
    state = torch.load(work_dir / 'iter_1.pth', weights_only=True)['state_dict']
    own = {name: state.get(f'backbone.{name}') for name in content['model']}
    shared = [name for name, value in content['model'].items() if own[name] is not None and own[name].shape == value.shape]
    assert len(shared) > 100
    return all(torch.equal(own[name], content['model'][name]) for name in shared)


def log_of(work_dir):
    (path,) = work_dir.glob('*/*.log')
    return path.read_text(encoding='utf-8')


@pytest.mark.slow
def test_a_given_file(data, content, tmp_path, monkeypatch):
    (tmp_path / 'given').mkdir()
    torch.save(content, tmp_path / 'given' / FILE)
    monkeypatch.setenv('MMFREQ_WEIGHTS', str(tmp_path / 'given'))
    train(HEADLINE, work_dir=tmp_path / 'work', cfg_options=options(data))
    assert started_from(tmp_path / 'work', content)
    assert f'The backbone starts from {NAME}, the file {tmp_path / "given" / FILE}.' in log_of(tmp_path / 'work')
    # resuming needs no file
    monkeypatch.delenv('MMFREQ_WEIGHTS')
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    cfg = prepare_train(HEADLINE, work_dir=tmp_path / 'work', resume='latest', cfg_options=options(data))
    assert cfg.load_from.endswith('iter_1.pth') and 'init_cfg' not in cfg.model.backbone


@pytest.mark.slow
def test_from_scratch(data, content, tmp_path, monkeypatch):
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    train(HEADLINE, work_dir=tmp_path / 'work', from_scratch=True, cfg_options=options(data))
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


def test_no_network(silent_proxy):
    before = time.monotonic()
    with pytest.raises(MissingWeightsError) as error:
        check_weights(Config.fromfile(HEADLINE), Report())
    assert time.monotonic() - before < 14
    for part in (NAME, 'no answer within 7 s', 'https://cloud.tsinghua.edu.cn/f/511faad0bde94dfcaa54/', FILE, '--from-scratch'):
        assert part in str(error.value)


def test_a_name_that_is_not_resolved(monkeypatch):
    """A resolver that does not answer has no timeout of its own."""
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *args, **kwargs: time.sleep(30))
    before = time.monotonic()
    with pytest.raises(MissingWeightsError, match='no answer within 7 s'):
        check_weights(Config.fromfile(HEADLINE), Report())
    assert time.monotonic() - before < 14


@pytest.mark.parametrize('offline', [True, False], ids=['offline', 'silent'])
def test_the_tool_without_a_network(data, tmp_path, tool_main, monkeypatch, capsys, silent_proxy, offline):
    monkeypatch.setenv('MMFREQ_OFFLINE', str(int(offline)))
    before = time.monotonic()
    with pytest.raises(SystemExit) as stopped:
        tool_main('train')([HEADLINE, '--work-dir', str(tmp_path / 'work'), *as_arguments(options(data))])
    assert stopped.value.code == 2 and time.monotonic() - before < 14
    assert f'error: The weights {NAME} are not on this machine' in capsys.readouterr().err
    assert not (tmp_path / 'work').exists() and not (tmp_path / 'torch').exists()


@pytest.mark.slow
def test_a_url_is_fetched_once_by_two_processes(data, content, dist_train, tmp_path):
    with serving() as server:
        server.files['/w.pth'] = Resource(saved(content))
        given = as_arguments(options(data, **{'model.backbone.init_cfg.checkpoint': server.url('/w.pth')}))
        started = dist_train(HEADLINE, 2, '--work-dir', tmp_path / 'work', *given, TORCH_HOME=tmp_path / 'torch')
        status, printed = started.wait()
        assert status == 0, printed
        assert len([asked for _, asked in server.requests if not asked]) == 1
    assert started_from(tmp_path / 'work', content)
    assert 'The backbone starts from' in log_of(tmp_path / 'work')


@pytest.mark.slow
def test_two_processes_and_a_dead_url(data, dist_train, tmp_path):
    with serving() as server:
        given = as_arguments(options(data, **{'model.backbone.init_cfg.checkpoint': server.url('/gone.pth')}))
        started = dist_train(HEADLINE, 2, '--work-dir', tmp_path / 'work', *given, TORCH_HOME=tmp_path / 'torch')
        status, printed = started.wait()
    assert status == 2 and 'the server answered 404' in printed and '--from-scratch' in printed
    assert not (tmp_path / 'work').exists()

"""Laws of reading checkpoints: mmengine's own come back whole, anything else is refused without being run."""

import os
import pickle
import urllib.error
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmfreq.compat.safe_load import CheckpointError, allow_mmengine_checkpoints, read_checkpoint


class Numbers(Dataset):
    """Four pairs of numbers."""

    metainfo = {'classes': ('a', 'b'), 'palette': [[1, 2, 3]]}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {'inputs': torch.tensor([1.0, index])}


class Line(BaseModel):
    """One linear layer whose loss is the mean square of its output."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, inputs, mode='tensor'):
        return {'loss': self.layer(torch.stack(inputs)).square().mean()}


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A checkpoint that mmengine's Runner wrote, with optimizer, EMA, schedule and the message hub's histories."""
    folder = tmp_path_factory.mktemp('work')
    runner = Runner(
        Line(),
        str(folder),
        train_dataloader={'dataset': Numbers(), 'batch_size': 2, 'sampler': {'type': 'DefaultSampler', 'shuffle': True}},
        train_cfg={'by_epoch': True, 'max_epochs': 2},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.01}},
        param_scheduler={'type': 'LinearLR', 'start_factor': 0.1, 'end': 5, 'by_epoch': False},
        default_hooks={
            'logger': {'type': 'LoggerHook', 'interval': 1},
            'checkpoint': {'type': 'CheckpointHook', 'interval': 1},
        },
        custom_hooks=[{'type': 'EMAHook'}],
        experiment_name='safe_load',
        log_level='ERROR',
    )
    runner.message_hub.update_info('best_score', np.float64(0.5))
    runner.train()
    return folder / 'epoch_2.pth'


def test_a_runner_checkpoint_comes_back_whole(checkpoint):
    got = read_checkpoint(checkpoint)
    reference = torch.load(checkpoint, weights_only=False)  # written by this test
    assert got.keys() == reference.keys() >= {'state_dict', 'message_hub', 'optimizer', 'param_schedulers', 'meta'}
    assert got['meta'] == reference['meta']
    for name, tensor in reference['state_dict'].items():
        assert torch.equal(got['state_dict'][name], tensor)
    histories = got['message_hub']['log_scalars']
    assert {'train/loss', 'train/lr'} <= histories.keys()
    for name, history in reference['message_hub']['log_scalars'].items():
        assert type(histories[name]) is HistoryBuffer
        assert np.array_equal(histories[name].data[0], history.data[0]) and len(histories[name].data[0]) == 4
    assert histories['train/loss'].mean() > 0
    assert got['message_hub']['runtime_info']['best_score'] == 0.5


def test_plain_torch_load_and_resume_work_too(checkpoint, tmp_path):
    allow_mmengine_checkpoints()
    assert torch.load(checkpoint, weights_only=True)['meta']['epoch'] == 2
    hub = torch.load(checkpoint, weights_only=True)['message_hub']['log_scalars']
    torch.save(hub, tmp_path / 'again.pth')
    assert read_checkpoint(tmp_path / 'again.pth').keys() == hub.keys()


@pytest.mark.parametrize('module', ['numpy.core.multiarray', 'numpy._core.multiarray'])
def test_arrays_of_numpy_1_and_2_are_read(tmp_path, module):
    value = {'array': np.arange(3.0), 'scalar': np.float32(0.5), 'count': np.int64(7), 'flag': np.bool_(True)}
    torch.save(value, tmp_path / 'new.pth')
    with zipfile.ZipFile(tmp_path / 'new.pth') as old, zipfile.ZipFile(tmp_path / 'old.pth', 'w') as new:
        for name in old.namelist():
            data = old.read(name)
            assert not name.endswith('data.pkl') or b'multiarray' in data
            for other in (b'numpy.core.multiarray', b'numpy._core.multiarray'):
                data = data.replace(other, module.encode())
            new.writestr(name, data)
    got = read_checkpoint(tmp_path / 'old.pth')
    assert np.array_equal(got.pop('array'), value.pop('array'))
    assert got == value and {type(entry) for entry in got.values()} == {np.float32, np.int64, np.bool_}


def test_allowing_twice_changes_nothing():
    allow_mmengine_checkpoints()
    before = set(torch.serialization.get_safe_globals())
    allow_mmengine_checkpoints()
    assert set(torch.serialization.get_safe_globals()) == before


def test_no_general_callable_is_on_the_list():
    allow_mmengine_checkpoints()
    listed = [entry[0] if isinstance(entry, tuple) else entry for entry in torch.serialization.get_safe_globals()]
    assert HistoryBuffer in listed
    assert not {getattr, setattr, eval, exec, __import__, open, os.system, np.load, pickle.loads} & set(listed)


class Call:
    """Pickles as the call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(canary):
    """Name -> an object whose unpickling would write `canary`, or reach for what does, and what the error must name."""
    touch = Call(os.system, f'touch {canary}')
    return {
        'call': (touch, 'posix.system|nt.system'),
        'eval': (Call(eval, f"open({str(canary)!r}, 'w')"), 'eval'),
        'import of a module': (Call(getattr, Call(__import__, 'os'), 'system'), '__import__'),
        'getattr of an array': (Call(getattr, np.ndarray, 'tofile'), 'builtins.getattr'),
        'getattr of a private name': (Call(getattr, HistoryBuffer, '__init__'), 'builtins.getattr'),
        'getattr of a table': (Call(getattr, HistoryBuffer, '_statistics_methods'), 'builtins.getattr'),
        'objects in an array': (np.array([touch], dtype=object), 'posix.system|nt.system|ObjectDType'),
    }


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('case', hostile(''))
def test_code_is_refused_and_not_run(tmp_path, case, legacy):
    canary, path = tmp_path / 'canary', tmp_path / 'hostile.pth'
    value, name = hostile(canary)[case]
    torch.save({'state_dict': value}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=f'({name})(.|\n)*not executed'):
        read_checkpoint(path)
    assert not canary.exists()
    if case == 'call':  # the same file does write the canary when it is unpickled without care
        torch.load(path, weights_only=False)
        assert canary.exists()


def test_a_plain_pickle_is_refused(tmp_path):
    canary = tmp_path / 'canary'
    (tmp_path / 'plain.pth').write_bytes(pickle.dumps(Call(os.system, f'touch {canary}'), 2))
    with pytest.raises(CheckpointError, match='not executed'):
        read_checkpoint(tmp_path / 'plain.pth')
    assert not canary.exists()


def test_other_classes_are_named(tmp_path):
    torch.save({'model': Line()}, tmp_path / 'module.pth')
    with pytest.raises(CheckpointError, match=r'Line, which is not on the list.*state_dict'):
        read_checkpoint(tmp_path / 'module.pth')


@pytest.mark.parametrize('keep', [0, 10, 0.5, 0.98])
def test_a_truncated_file_says_its_size_and_to_download_again(checkpoint, tmp_path, keep):
    data = checkpoint.read_bytes()
    data = data[: keep if isinstance(keep, int) else int(keep * len(data))]
    (tmp_path / 'cut.pth').write_bytes(data)
    with pytest.raises(CheckpointError, match=rf'cut\.pth \({len(data)} bytes\).*truncated or not a checkpoint.*ownload it again'):
        read_checkpoint(tmp_path / 'cut.pth')


@pytest.mark.parametrize('text', ['version https://git-lfs.github.com/spec/v1\noid sha256:0\n', '<html>404</html>', ''])
def test_a_text_file_is_no_checkpoint(tmp_path, text):
    (tmp_path / 'page.pth').write_text(text)
    with pytest.raises(CheckpointError, match='truncated or not a checkpoint'):
        read_checkpoint(tmp_path / 'page.pth')


def test_a_missing_file_is_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint('weights/none.pth')
    assert str(tmp_path / 'weights' / 'none.pth') in str(caught.value) and 'no such file' in str(caught.value)
    with pytest.raises(CheckpointError, match='a folder'):
        read_checkpoint(tmp_path)
    assert issubclass(CheckpointError, ValueError)


def test_an_address_is_loaded_by_torch_hub_with_weights_only(monkeypatch):
    seen = {}
    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', lambda url, **options: seen.update(options, url=url) or {})
    assert read_checkpoint('https://example.org/a.pth') == {}
    assert seen == {'url': 'https://example.org/a.pth', 'map_location': 'cpu', 'weights_only': True}


def test_an_unreachable_address_is_a_checkpoint_error(monkeypatch):
    def fail(url, **options):
        raise urllib.error.URLError('Name or service not known')

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', fail)
    with pytest.raises(CheckpointError, match=r'https://example\.org/a\.pth could not be read: .*Name or service'):
        read_checkpoint('https://example.org/a.pth')

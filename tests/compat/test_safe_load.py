"""read_checkpoint loads mmengine's checkpoints completely, and refuses other types without running them."""

import functools
import io
import os
import pickle
import subprocess
import tarfile
import warnings
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch.utils.data import Dataset

from mmfreq.compat.safe_load import CheckpointError, allow_mmengine_checkpoints, read_checkpoint, unpickles_by_default


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


def test_runner_checkpoint_is_loaded_completely(checkpoint):
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


def test_torch_load_reads_it_too(checkpoint, tmp_path):
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


def test_allow_mmengine_checkpoints_is_idempotent():
    allow_mmengine_checkpoints()
    before = set(torch.serialization.get_safe_globals())
    allow_mmengine_checkpoints()
    assert set(torch.serialization.get_safe_globals()) == before


def test_no_general_callable_is_allowed():
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


def history(value):
    """A HistoryBuffer that would call `value` for its mean."""
    buffer = HistoryBuffer([1.0], [1])
    buffer._statistics_methods = {'mean': value}
    return buffer


def hostile(canary):
    """Name -> an object whose unpickling would write `canary`, or access what does, with the pattern that the error must match."""
    touch = Call(os.system, f'touch {canary}')
    return {
        'call': (touch, 'posix.system|nt.system'),
        'eval': (Call(eval, f"open({str(canary)!r}, 'w')"), 'eval'),
        'import of a module': (Call(getattr, Call(__import__, 'os'), 'system'), '__import__'),
        'getattr of an array': (Call(getattr, np.ndarray, 'tofile'), 'builtins.getattr'),
        'getattr of a private name': (Call(getattr, HistoryBuffer, '__init__'), 'builtins.getattr'),
        'partial': (Call(functools.partial, os.system, f'touch {canary}'), 'functools.partial'),
        'chain of getattr': (Call(getattr, Call(getattr, Call(__import__, 'os'), 'path'), 'os'), '__import__'),
        'statistics of a history': (history(touch), 'posix.system|nt.system'),
        'attribute of a namespace': (Namespace(hook=touch), 'posix.system|nt.system'),
        'exec': (Call(exec, f"open({str(canary)!r}, 'w')"), 'exec'),
        'a shell': (Call(subprocess.Popen, ['touch', str(canary)]), 'subprocess.Popen|commands.Popen'),
        'pickle within': (Call(pickle.loads, pickle.dumps(touch)), '_?pickle.loads'),
        'torch within': (Call(torch.load, str(canary)), 'torch.serialization.load'),
        'numpy within': (Call(np.load, str(canary)), 'numpy'),
        'storage of a module': (Call(torch.hub.load, str(canary)), 'torch.hub.load'),
        'getattr of a table': (Call(getattr, HistoryBuffer, '_statistics_methods'), 'builtins.getattr'),
        'objects in an array': (np.array([touch], dtype=object), 'posix.system|nt.system|ObjectDType'),
    }


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('case', hostile(''))
def test_code_is_refused_and_not_executed(tmp_path, case, legacy):
    canary, path = tmp_path / 'canary', tmp_path / 'hostile.pth'
    value, name = hostile(canary)[case]
    torch.save({'state_dict': value}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=f'({name})(.|\n)*not executed'):
        read_checkpoint(path)
    assert not canary.exists()
    if case == 'call':  # the same file does write the canary when it is unpickled unsafely
        torch.load(path, weights_only=False)
        assert canary.exists()


def test_a_plain_pickle_is_refused(tmp_path):
    canary = tmp_path / 'canary'
    (tmp_path / 'plain.pth').write_bytes(pickle.dumps(Call(os.system, f'touch {canary}'), 2))
    with pytest.raises(CheckpointError, match='not executed'):
        read_checkpoint(tmp_path / 'plain.pth')
    assert not canary.exists()


def test_error_names_other_classes(tmp_path):
    torch.save({'model': Line()}, tmp_path / 'module.pth')
    with pytest.raises(CheckpointError, match=r'Line.*state_dict'):
        read_checkpoint(tmp_path / 'module.pth')


@pytest.mark.parametrize('keep', [0, 10, 0.5, 0.98])
def test_error_of_a_truncated_file_gives_its_size_and_the_remedy(checkpoint, tmp_path, keep):
    data = checkpoint.read_bytes()
    data = data[: keep if isinstance(keep, int) else int(keep * len(data))]
    (tmp_path / 'cut.pth').write_bytes(data)
    with pytest.raises(CheckpointError, match=rf'cut\.pth \({len(data)} bytes\).*truncated.*ownload'):
        read_checkpoint(tmp_path / 'cut.pth')


def test_error_of_a_missing_file_gives_its_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint('weights/none.pth')
    assert str(tmp_path / 'weights' / 'none.pth') in str(caught.value) and 'no such file' in str(caught.value)
    with pytest.raises(CheckpointError, match='a folder without weights'):
        read_checkpoint(tmp_path)
    assert issubclass(CheckpointError, ValueError)


def test_error_of_a_url_names_the_function_that_downloads():
    with pytest.raises(CheckpointError, match=r'https://example\.org/a\.pth.*weights\.store\.local_file'):
        read_checkpoint('https://example.org/a.pth')


# Files that are not checkpoints, and what the error calls them


def written(data):
    return lambda path: path.write_bytes(data)


def torchscript(path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def tar(path):
    with tarfile.open(path, 'w') as archive:
        for name in ('sys_info', 'pickle', 'storages', 'tensors'):
            data = pickle.dumps({})
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def cut_safetensors(path):
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(2))


def test_safetensors_are_read_whatever_their_name(tmp_path):
    state = {'a.weight': torch.arange(6.0).view(2, 3), 'b': torch.ones(2, dtype=torch.bfloat16)}
    save_file(state, tmp_path / 'w.pth')
    found = read_checkpoint(tmp_path / 'w.pth')
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    save_file(state, tmp_path / 'w.safetensors', {'mmfreq_meta': '{"dataset_meta": {"classes": ["a", "b"]}}'})
    found = read_checkpoint(tmp_path / 'w.safetensors', 'meta')
    assert found['meta'] == {'dataset_meta': {'classes': ['a', 'b']}} and found['state_dict']['b'].is_meta


def other_zip(path):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('readme.txt', 'no weights')


NO_CHECKPOINTS = {
    'nothing': (written(b''), r'empty file.*ownload'),
    'a page of HTML': (written(b'\n<!DOCTYPE html><html>Please log in</html>'), 'a page of HTML'),
    'a git-lfs pointer': (written(b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n'), 'git lfs pull'),
    'a text': (written('{"message": "Not Found", "straße": 1}'.encode()), 'text file.*{"message"'),
    'random bytes': (written(bytes(range(255, -1, -1)) * 9), 'truncated'),
    'an image': (written(b'\xff\xd8\xff\xe0' + bytes(99)), 'a JPEG image'),
    'a gzip archive': (written(b'\x1f\x8b' + bytes(99)), 'a gzip archive; unpack'),
    'a numpy array': (written(b'\x93NUMPY' + bytes(99)), 'a numpy array'),
    'an HDF5 file': (written(b'\x89HDF\r\n' + bytes(99)), 'an HDF5 file'),
    'a cut safetensors file': (cut_safetensors, 'truncated or damaged'),
    'a TorchScript archive': (torchscript, 'TorchScript.*not executed'),
    'the old tar format': (tar, 'tar.*not executed'),
    'another zip archive': (other_zip, 'truncated'),
    'a zip archive in a zip archive': (written(b'PK\x03\x04' + bytes(99)), 'truncated'),
}


@pytest.mark.parametrize('case', NO_CHECKPOINTS)
def test_error_names_the_type_of_a_file_that_is_not_a_checkpoint(tmp_path, case):
    write, description = NO_CHECKPOINTS[case]
    write(tmp_path / 'weights.pth')
    with pytest.raises(CheckpointError, match=rf'(?s)weights\.pth \(\d+ bytes\).*{description}') as caught:
        read_checkpoint(tmp_path / 'weights.pth')
    assert 'weights_only' not in str(caught.value)  # torch's advice to switch the protection off


@pytest.mark.parametrize('cut', [1, 22, 100, 1000])
def test_a_file_without_its_last_bytes_is_refused(checkpoint, tmp_path, cut):
    (tmp_path / 'cut.pth').write_bytes(checkpoint.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match='ownload'):
        read_checkpoint(tmp_path / 'cut.pth')


def test_a_flipped_bit_is_detected(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'weight': torch.zeros(1000)}, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)['weight'].count_nonzero() == 1
    with pytest.raises(CheckpointError, match=r'checksum.*weights/data/0'):
        read_checkpoint(path)


def test_a_file_without_checksums_is_read(tmp_path):
    if not hasattr(torch.serialization, 'set_crc32_options'):
        pytest.skip('this torch always writes checksums')
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({'weight': torch.ones(3)}, tmp_path / 'weights.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(tmp_path / 'weights.pth') as archive:
        assert archive.testzip()
    assert read_checkpoint(tmp_path / 'weights.pth')['weight'].sum() == 3


def test_unpickles_by_default(monkeypatch):
    monkeypatch.delenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', raising=False)
    assert unpickles_by_default() == (torch.__version__ < (2, 6))
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    assert unpickles_by_default()
    with pytest.raises(pickle.UnpicklingError):  # an explicit weights_only=True still holds
        torch.load(io.BytesIO(saved(Call(os.system, 'exit 0'))), weights_only=True)


def saved(value):
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def test_the_format_is_judged_by_the_content(tmp_path):
    state = {'w': torch.arange(3.0)}
    torch.save(state, tmp_path / 'a.safetensors')
    save_file(state, tmp_path / 'b.pth')
    for name in ('a.safetensors', 'b.pth'):
        assert torch.equal(read_checkpoint(tmp_path / name)['w'], state['w'])


@pytest.mark.parametrize('device', ['cuda:7', 'nonsense'])
def test_a_device_that_is_not_here_is_named(tmp_path, device):
    torch.save({'w': torch.ones(1)}, tmp_path / 'a.pth')
    save_file({'w': torch.ones(1)}, tmp_path / 'a.safetensors')
    for name in ('a.pth', 'a.safetensors'):
        with pytest.raises(ValueError, match=f"device of this machine as map_location, got '{device}'"):
            read_checkpoint(tmp_path / name, device)

"""A function after the import of a module; and with it, mmengine's loader reads what mmfreq reads after `import mmfreq` alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mmfreq
from mmfreq.compat.after_import import AfterImport, after_import

ROOT = Path(mmfreq.__file__).parents[1]


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / 'imported_later.py').write_text('value = 1\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, 'meta_path', list(sys.meta_path))
    yield 'imported_later'
    sys.modules.pop('imported_later', None)


def test_it_is_called_once_after_the_import(module):
    calls = []
    after_import(module, lambda: calls.append(sys.modules[module].value))
    after_import(module, lambda: calls.append('twice'))
    assert not calls
    import imported_later

    assert calls == [1] and imported_later.__spec__.loader.get_source(module) == 'value = 1\n'
    after_import(module, lambda: calls.append('now'))
    assert calls == [1, 'now']


def test_other_modules_are_left_alone():
    finder = AfterImport('x.y', lambda: None)
    assert finder.find_spec('x') is None and finder.find_spec('x.y.z') is None


def test_a_missing_module_stays_missing(monkeypatch):
    monkeypatch.setattr(sys, 'meta_path', list(sys.meta_path))
    after_import('missing_for_sure', lambda: None)
    with pytest.raises(ModuleNotFoundError):
        import missing_for_sure  # noqa: F401


CODE = """
import json, sys
import mmfreq
assert 'torch' not in sys.modules
from mmengine.runner import CheckpointLoader, load_checkpoint
found = []
for path in sys.argv[1:]:
    try:
        found.append(sorted(CheckpointLoader.load_checkpoint(path, 'cpu')))
    except Exception as error:
        found.append(type(error).__name__)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_mmengines_loader_after_import_mmfreq_alone(tmp_path):
    from mmengine.logging import HistoryBuffer

    torch.save({'state_dict': {}, 'message_hub': {'loss': HistoryBuffer([1.0], [1])}}, tmp_path / 'run.pth')
    save_file({'w': torch.ones(2)}, tmp_path / 'w.safetensors')
    sources = [str(tmp_path / 'run.pth'), str(tmp_path / 'w.safetensors'), str(tmp_path / 'none.pth'), 'mmfreq://affnet']
    environment = {'PYTHONPATH': str(ROOT), 'PATH': '', 'MMFREQ_OFFLINE': '1', 'TORCH_HOME': str(tmp_path), 'HOME': str(tmp_path)}
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', CODE, *sources], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        ['message_hub', 'state_dict'],
        ['w'],
        'FileNotFoundError',
        'MissingWeightsError',
    ]

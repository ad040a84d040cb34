"""A checkpoint with a shell command in it is refused by name and not executed, by every tool and function that reads one."""

import os
import re
from pathlib import Path

import pytest
import torch

import mmfreq
from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.demo.checkpoints import Models, find_sources
from mmfreq.engine.resume.start import latest_checkpoint

ROOT = Path(mmfreq.__file__).resolve().parent
# (file, call) -> why it is safe; any other call that could run code from a file fails the test
JUSTIFIED = {
    ('compat/onedl.py', 'torch.load'): 'with weights_only=True',
    ('compat/safe_load.py', 'torch.load'): 'with weights_only=True',
    ('testing/backbone_contract.py', 'pickle.loads'): 'reads what the same line pickled',
}
CALLS = re.compile(
    r'(?<![\w.])(torch\.load|torch\.jit\.load|load_state_dict_from_url|load_url|pickle\.loads?|joblib\.load|np\.load|numpy\.load'
    r'|yaml\.load|mmengine\.load|fileio\.load|eval|exec)\('
)


class Command:
    """Unpickles as a shell command."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f'touch {self.canary}',)


@pytest.fixture
def hostile(tmp_path):
    """A checkpoint in mmengine's format that would write the file `canary` when unpickled."""
    state = {'meta': {'iter': 1, 'epoch': 0, 'hook': Command(tmp_path / 'canary')}, 'state_dict': {'a': torch.ones(1)}}
    folder = tmp_path / 'w'
    folder.mkdir()
    torch.save(state, folder / 'iter_1.pth')
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_1.pth'))
    yield folder / 'iter_1.pth'
    assert not (tmp_path / 'canary').exists()
    torch.load(folder / 'iter_1.pth', weights_only=False)  # shows that the file is hostile
    assert (tmp_path / 'canary').exists()


WAYS = {
    'train --resume FILE': lambda config, file: ('train', config, '--work-dir', file.parents[1] / 'v', '--resume', file),
    'train load_from': lambda config, file: (
        *('train', config, '--work-dir', file.parents[1] / 'v', '--cfg-options'),
        f'load_from={file}',
    ),
    'train init_cfg': lambda config, file: (
        *('train', config, '--work-dir', file.parents[1] / 'v', '--cfg-options'),
        *('model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={file}'),
    ),
    'test': lambda config, file: ('test', config, file, '--work-dir', file.parents[1] / 'v'),
    'infer': lambda config, file: ('infer', config, file, file.parent),
    'convert_checkpoint': lambda config, file: ('convert_checkpoint', file, file.parents[1] / 'out.pth'),
    'convert_checkpoint --invert': lambda config, file: ('convert_checkpoint', file, file.parents[1] / 'out.pth', '--invert'),
    'export_onnx': lambda config, file: ('export_onnx', config, file, '--out', file.parents[1] / 'out.onnx'),
    'export_onnx of an arch': lambda config, file: ('export_onnx', 'hornet-micro', file, '--out', file.parents[1] / 'out.onnx'),
    'plot_filters': lambda config, file: ('plot_filters', 'hornet-micro', file, '--out', file.parents[1] / 'filters'),
}


@pytest.mark.parametrize('way', WAYS)
def test_tools_refuse_a_hostile_checkpoint_by_name(hostile, toy_config, call_tool, capsys, way):
    (hostile.parent / 'image.png').write_bytes(b'')  # an input for infer.py, which loads the model first
    with pytest.raises(SystemExit) as end:
        call_tool(*WAYS[way](toy_config, hostile))
    message = capsys.readouterr().err
    assert end.value.code == 2 and str(hostile) in message and 'system' in message and 'It was not executed' in message, message


def test_hostile_latest_checkpoint_is_refused(hostile):
    with pytest.raises((ValueError, RuntimeError), match=r'iter_1\.pth.*system'):
        latest_checkpoint(hostile.parent)


def test_python_functions_refuse_a_hostile_checkpoint(hostile):
    model = mmfreq.build_backbone('hornet-micro')
    with pytest.raises(CheckpointError, match='not executed'):
        mmfreq.load_weights(model, hostile)
    model.init_cfg = {'type': 'Pretrained', 'checkpoint': str(hostile)}
    with pytest.raises(CheckpointError, match='not executed'):
        model.init_weights()


def test_demo_refuses_a_hostile_checkpoint(hostile, toy_config):
    (hostile.parent / 'toy.py').write_text(Path(toy_config).read_text())
    sources, _ = find_sources([hostile.parent])
    (key,) = [key for key, source in Models(sources).sources.items() if source.checkpoint == hostile]
    with pytest.raises(ValueError, match='not executed'), Models(sources).use(key):
        pass


def test_reproduce_reads_checkpoints_safely(hostile, call_tool):
    message = call_tool('reproduce', '--checkpoints', hostile.parent, '--list')
    assert '1 file(s) without a row' in message and hostile.name in message and 'not executed' in message, message


def calls_in(text):
    """The calls in a source text that could run code from a file, without comments."""
    lines = [line.partition('  #')[0] for line in text.splitlines()]
    return [found for line in lines for found in CALLS.findall(line)]


def test_no_other_code_unpickles_or_evaluates():
    files = [*ROOT.rglob('*.py'), *(ROOT.parent / 'tools').glob('*.py')]
    found = {(path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else f'tools/{path.name}', name)
             for path in files if '.mim' not in path.parts for name in calls_in(path.read_text())}  # fmt: skip
    assert len(files) > 100 and {name for _, name in found} >= {'torch.load', 'pickle.loads'}
    assert found - JUSTIFIED.keys() == set()


@pytest.mark.parametrize('line', ['x = torch.load(f)', 'np.load(f, allow_pickle=True)', '    eval(text)', 'return pickle.load(f)'])
def test_search_finds_unsafe_calls(line):
    assert calls_in(line) and not calls_in('model.eval()') and not calls_in('my_eval(x)')


def test_reading_is_safe_if_torch_is_set_to_unsafe_loading(hostile, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    with pytest.raises(CheckpointError, match='not executed'):
        read_checkpoint(hostile)

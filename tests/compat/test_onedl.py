"""mmengine finds the configs of OneDL's mmsegmentation and loads checkpoints safely; a stock mmsegmentation is not affected."""

import pickle
from types import SimpleNamespace

import mmengine.hub
import pytest
import torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import HistoryBuffer

import mmfreq.registry  # noqa: F401
from mmfreq.compat import onedl

CONFIG = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'


@pytest.mark.parametrize(
    ('installed', 'name'),
    [
        ({'onedl-mmsegmentation'}, 'mmseg'),
        ({'mmsegmentation'}, 'mmsegmentation'),
        ({'mmsegmentation', 'onedl-mmsegmentation'}, 'mmsegmentation'),
        (set(), 'mmsegmentation'),
    ],
)
def test_only_onedl_without_stock_changes_the_package_name(monkeypatch, installed, name):
    monkeypatch.setattr(onedl, 'is_distribution', installed.__contains__)
    packages = {'mmseg': 'mmsegmentation', 'mmdet': 'mmdet'}
    onedl.find_onedl_configs(packages)
    assert packages == {'mmseg': name, 'mmdet': 'mmdet'}


def test_is_distribution_is_false_for_modules():
    assert onedl.is_distribution('pytest') and not onedl.is_distribution('mmseg')


@pytest.mark.parametrize('name', [None, 'mmseg'])
def test_configs_are_found_without_installing_anything(monkeypatch, name):
    """With the packages installed here, and with the name that `find_onedl_configs` sets for OneDL."""

    def refuse(command):
        raise AssertionError(f'mmengine would run {command}')

    monkeypatch.setattr('mmengine.utils.package_utils.call_command', refuse)
    if name:
        monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', name)
    assert mmengine.hub.get_config(CONFIG).model.decode_head.type == 'UPerHead'


class Canary:
    """Executed by an unsafe unpickler, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize('weights_only', [None, False, True])
def test_replaced_loader_runs_no_code_and_reads_mmengine_checkpoints(tmp_path, weights_only):
    module = SimpleNamespace(_safe_torch_load=torch.load)
    onedl.replace_loader(module)
    torch.save({'x': Canary(tmp_path / 'executed')}, tmp_path / 'hostile.pth')
    with pytest.raises(pickle.UnpicklingError, match='exec'):
        module._safe_torch_load(tmp_path / 'hostile.pth', weights_only=weights_only)
    assert not (tmp_path / 'executed').exists()
    torch.save({'history': HistoryBuffer([1.0], [1])}, tmp_path / 'own.pth')
    for _ in range(2):
        assert module._safe_torch_load(tmp_path / 'own.pth', map_location='cpu')['history'].current() == 1.0


def test_a_module_without_the_loader_is_not_changed():
    module = SimpleNamespace()
    onedl.replace_loader(module)
    assert vars(module) == {}


@pytest.mark.skipif(not onedl.is_distribution('onedl-mmengine'), reason='the loader of onedl-mmengine is not installed here')
def test_onedl_mmengine_loads_safely(tmp_path):
    from mmengine.runner import load_checkpoint

    torch.save({'x': Canary(tmp_path / 'executed')}, tmp_path / 'hostile.pth')
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'hostile.pth'))
    assert not (tmp_path / 'executed').exists()

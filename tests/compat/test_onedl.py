"""OneDL's mmsegmentation is found by mmengine, and a stock one, or none, is left to it."""

import mmengine.hub
import pytest
from mmengine.config.utils import MODULE2PACKAGE

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
def test_only_onedl_alone_changes_where_mmengine_looks(monkeypatch, installed, name):
    monkeypatch.setattr(onedl, 'is_distribution', installed.__contains__)
    packages = {'mmseg': 'mmsegmentation', 'mmdet': 'mmdet'}
    onedl.find_onedl_configs(packages)
    assert packages == {'mmseg': name, 'mmdet': 'mmdet'}


def test_distributions_are_told_apart_from_modules():
    assert onedl.is_distribution('pytest') and not onedl.is_distribution('mmseg')


@pytest.mark.parametrize('name', [None, 'mmseg'])
def test_configs_are_found_and_nothing_is_installed(monkeypatch, name):
    """By what is installed here, and by the name that OneDL gets."""

    def refuse(command):
        raise AssertionError(f'mmengine would run {command}')

    monkeypatch.setattr('mmengine.utils.package_utils.call_command', refuse)
    if name:
        monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', name)
    assert mmengine.hub.get_config(CONFIG).model.decode_head.type == 'UPerHead'

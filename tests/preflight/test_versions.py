"""The installed packages, judged before a run."""

import pytest
from mmengine.config import Config

from mmfreq.compat.stack import Facts
from mmfreq.preflight.run import StackError, check_versions

VALID = {
    **{'torch': '2.15.0', 'torchvision': '0.29.0', 'numpy': '2.4.0', 'mmengine': '0.10.7', 'mmcv-lite': '2.1.0'},
    **{'mmsegmentation': '1.2.2', 'mmdet': '3.3.0', 'mmpretrain': '1.2.0', 'ftfy': '6', 'regex': '1', 'setuptools': '80.0'},
}


def gather_of(versions, failures=None):
    return lambda distributions, modules: Facts('3.11.7', versions, failures or {}, True, {'nms': True}, {})


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet', 'mmpretrain'])
def test_this_environment_is_valid_for_each_library(scope, report):
    pytest.importorskip(scope)
    check_versions(Config({'default_scope': scope}), report)
    assert 'mmengine' in report.facts['versions'] and 'torch' in report.facts['versions']


def test_error_has_the_command_that_fixes_the_packages(report):
    broken = {**VALID, 'mmcv': '2.2.0'}
    del broken['mmcv-lite']
    with pytest.raises(StackError) as error:
        check_versions(Config({'default_scope': 'mmseg'}), report, gather_of(broken))
    message = str(error.value)
    assert 'mmcv >= 2.2.0' in message and 'python -m pip' in message and 'mmcv-lite==2.1.0' in message


def test_only_the_library_of_the_config_must_be_installed(report):
    without = {name: version for name, version in VALID.items() if name != 'mmdet'}
    check_versions(Config({'default_scope': 'mmseg'}), report, gather_of(without))
    with pytest.raises(StackError, match=r'mmdet.*not installed'):
        check_versions(Config({'default_scope': 'mmdet'}), report, gather_of(without))


def test_a_doubtful_version_is_a_warning(report):
    check_versions(Config({'default_scope': 'mmseg'}), report, gather_of({**VALID, 'setuptools': '82.0'}))
    assert len(report.warnings) == 1 and 'setuptools 82.0' in report.warnings[0]


def test_only_the_library_of_the_config_is_imported(report):
    imported = []

    def gather(distributions, modules):
        imported.extend(modules)
        return Facts('3.11.7', VALID, {}, True, {'nms': True}, {})

    check_versions(Config({'default_scope': 'mmseg'}), report, gather)
    assert 'mmseg.models' in imported and not {'mmdet.models', 'mmpretrain.models', 'timm'} & set(imported)

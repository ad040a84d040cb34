"""The doctor's judgement before a run."""

import pytest
from mmengine.config import Config

from mmfreq.compat.stack import Facts
from mmfreq.preflight.run import StackError, check_versions

WELL = {
    **{'torch': '2.15.0', 'torchvision': '0.29.0', 'numpy': '2.4.0', 'mmengine': '0.10.7', 'mmcv-lite': '2.1.0'},
    **{'mmsegmentation': '1.2.2', 'mmdet': '3.3.0', 'mmpretrain': '1.2.0', 'ftfy': '6', 'regex': '1', 'setuptools': '80.0'},
}


def looked(versions, failures=None):
    return lambda distributions, modules: Facts('3.11.7', versions, failures or {}, True, {'nms': True}, {})


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet', 'mmpretrain'])
def test_this_environment_runs_configs_of_each_library(scope, report):
    pytest.importorskip(scope)
    check_versions(Config({'default_scope': scope}), report)
    assert 'mmengine' in report.facts['versions'] and 'torch' in report.facts['versions']


def test_what_cannot_work_is_told_with_the_command_that_mends_it(report):
    broken = {**WELL, 'mmcv': '2.2.0'}
    del broken['mmcv-lite']
    with pytest.raises(StackError) as error:
        check_versions(Config({'default_scope': 'mmseg'}), report, looked(broken))
    message = str(error.value)
    assert 'mmcv >= 2.2.0' in message and 'python -m pip' in message and 'mmcv-lite==2.1.0' in message


def test_a_library_that_is_not_asked_for_may_be_missing(report):
    without = {name: version for name, version in WELL.items() if name != 'mmdet'}
    check_versions(Config({'default_scope': 'mmseg'}), report, looked(without))
    with pytest.raises(StackError, match=r'mmdet.*not installed'):
        check_versions(Config({'default_scope': 'mmdet'}), report, looked(without))


def test_what_may_go_wrong_is_a_warning(report):
    check_versions(Config({'default_scope': 'mmseg'}), report, looked({**WELL, 'setuptools': '82.0'}))
    assert len(report.warnings) == 1 and 'setuptools 82.0' in report.warnings[0]


def test_only_the_library_of_the_config_is_imported(report):
    asked = []

    def look(distributions, modules):
        asked.extend(modules)
        return Facts('3.11.7', WELL, {}, True, {'nms': True}, {})

    check_versions(Config({'default_scope': 'mmseg'}), report, look)
    assert 'mmseg.models' in asked and not {'mmdet.models', 'mmpretrain.models', 'timm'} & set(asked)

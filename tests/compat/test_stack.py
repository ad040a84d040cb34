"""Judgments of the stack: a supported one has no findings; each known incompatibility is reported with a command that fixes it."""

import shlex
from dataclasses import replace

import pytest

from mmfreq.compat.stack import LITE, Facts, fix_command, judge, oldest_torch, release, requirements, usable

SUPPORTED = Facts(
    python='3.11.7',
    versions={
        'torch': '2.15.0',
        'torchvision': '0.29.2',
        'numpy': '2.4.6',
        'mmcv-lite': '2.1.0',
        'mmengine': '0.10.7',
        'mmdet': '3.3.0',
        'mmsegmentation': '1.2.2',
        'mmpretrain': '1.2.0',
        'timm': '1.0.31',
        'ftfy': '6.3.1',
        'regex': '2026.1',
        'setuptools': '80.9.0',
    },
    fallback=True,
    ops={'nms': True, 'carafe_forward': False},
)
ONEDL = {
    'onedl-mmcv': '2.3.6',
    'onedl-mmengine': '0.10.12',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmsegmentation': '1.4.2',
    'onedl-mmpretrain': '1.3.6',
}
STOCK = ('mmcv-lite', 'mmengine', 'mmdet', 'mmsegmentation', 'mmpretrain')


def with_versions(*without, failures=None, python='3.11.7', **changes):
    """The supported facts with some distributions changed (`_` for `-`), added or removed."""
    versions = {name: version for name, version in SUPPORTED.versions.items() if name not in without}
    changes = {name.replace('_', '-'): version for name, version in changes.items()}
    return replace(SUPPORTED, versions={**versions, **changes}, failures=failures or {}, python=python)


def faults(facts):
    """Name -> finding, of those that are not ok."""
    return {finding.name: finding for finding in judge(facts) if finding.verdict != 'ok'}


def test_default_setup_is_supported():
    findings = judge(SUPPORTED)
    assert faults(SUPPORTED) == {} and usable(findings) and fix_command(findings) == ''
    assert {'python', 'torch', 'mmcv', 'mmdet', 'mmsegmentation', 'setuptools'} <= {finding.name for finding in findings}
    mmcv = next(finding for finding in findings if finding.name == 'mmcv')
    assert mmcv.version == 'mmcv-lite 2.1.0' and '1 of 2' in mmcv.what and 'mmfreq' in mmcv.what


@pytest.mark.parametrize('name, version', [('mmcv', '2.1.0'), ('mmcv', '2.0.1+cu118')])
def test_compiled_mmcv_is_supported(name, version):
    facts = replace(with_versions('mmcv-lite', **{name: version}), fallback=False)
    assert faults(facts) == {}
    assert 'compiled' in next(finding.what for finding in judge(facts) if finding.name == 'mmcv')


def test_complete_onedl_set_is_supported():
    assert faults(with_versions(*STOCK, **ONEDL)) == {}
    newest = with_versions(*STOCK, **ONEDL, setuptools='84.2.1', failures={'pkg_resources': 'ModuleNotFoundError'})
    assert faults(newest) == {}, 'onedl-mmengine does not import pkg_resources'


def test_requirements_are_the_pinned_setup():
    lines = requirements()
    assert LITE.is_file() and len(lines) == 11
    assert [lines[name] for name in STOCK] == [
        'mmcv-lite==2.1.0',
        'mmengine==0.10.7',
        'mmdet==3.3.0',
        'mmsegmentation==1.2.2',
        'mmpretrain==1.2.0',
    ]
    assert lines['setuptools'] == 'setuptools<81' and lines['torch'] == f'torch>={oldest_torch()}'


@pytest.mark.parametrize(
    'name', ['torch', 'torchvision', 'numpy', 'mmengine', 'mmcv-lite', 'mmdet', 'mmsegmentation', 'ftfy', 'regex']
)
def test_missing_package_is_reported_and_installed(name):
    facts = with_versions(name)
    assert list(faults(facts)) == ['mmcv' if name == 'mmcv-lite' else name]
    assert not usable(judge(facts))
    line = requirements().get(name, name)
    assert shlex.split(fix_command(judge(facts))) == ['python', '-m', 'pip', 'install', line]


@pytest.mark.parametrize('name', ['mmpretrain', 'timm'])
def test_missing_optional_package_is_a_warning(name):
    facts = with_versions(name)
    assert faults(facts)[name].verdict == 'warn' and usable(judge(facts))
    assert fix_command(judge(facts)) == f'python -m pip install {requirements()[name]}'


# case: (facts, name of the finding, words in it, words in the command)
INCOMPATIBLE = {
    'mmcv 2.2': (
        with_versions('mmcv-lite', mmcv='2.2.0'),
        'mmcv x mmdet',
        '2.2.0',
        'uninstall -y mmcv && mmcv-lite==2.1.0',
    ),
    'mmcv-lite 2.2': (with_versions(mmcv_lite='2.2.0'), 'mmcv x mmdet', 'refuse', 'uninstall -y mmcv-lite && mmcv-lite==2.1.0'),
    'mmcv 1.x': (with_versions('mmcv-lite', mmcv='1.7.2'), 'mmcv x mmdet', '1.x', 'uninstall -y mmcv && mmcv-lite==2.1.0'),
    'two mmcv': (with_versions(mmcv='2.1.0'), 'mmcv', 'one folder', 'uninstall -y mmcv-lite mmcv && mmcv-lite==2.1.0'),
    'stock on OneDL mmcv': (
        with_versions('mmcv-lite', onedl_mmcv='2.3.6'),
        'OneDL',
        'mmdet and mmsegmentation',
        'onedl-mmcv && mmcv-lite==2.1.0',
    ),
    'torch of another build': (
        with_versions(torch='2.15.0+cpu', failures={'torchvision': 'RuntimeError: operator torchvision::nms does not exist'}),
        'torchvision',
        'RuntimeError: operator torchvision::nms does not exist',
        'install --force-reinstall "torch>= && " torchvision',
    ),
    'old torch': (
        with_versions(torch='2.3.1+cu118', torchvision='0.18.1'),
        'torch',
        oldest_torch(),
        f'install "torch>={oldest_torch()}" torchvision',
    ),
    'Adafactor': (with_versions(mmengine='0.10.5'), 'mmengine x torch', 'Adafactor', 'mmengine==0.10.7'),
    'no pkg_resources': (
        with_versions('setuptools', failures={'pkg_resources': 'No module'}),
        'setuptools',
        'pkg_resources',
        '"setuptools<81"',
    ),
    'old python': (with_versions(python='3.9.18'), 'python', '3.10', ''),
    'new python': (with_versions(python='3.14.0'), 'python', 'find_loader', ''),
    'broken mmseg': (
        with_versions(failures={'mmseg.models': "KeyError: 'x'"}),
        'mmsegmentation',
        "KeyError: 'x'",
        '',
    ),
}


@pytest.mark.parametrize('case', INCOMPATIBLE)
def test_known_incompatibility_has_a_fix(case):
    facts, name, what, command = INCOMPATIBLE[case]
    finding = faults(facts)[name]
    assert finding.verdict == 'fail' and not usable(judge(facts)) and finding.remedy
    assert what in finding.what
    got = fix_command(judge(facts))
    assert bool(got) == bool(command) and all(part in got for part in command.split(' && '))
    assert not got or '\n' not in got


def test_stack_with_warnings_is_usable():
    for facts, name in (
        (with_versions(setuptools='82.0'), 'setuptools'),
        (with_versions('mmengine', **{'onedl-mmengine': '0.10.12'}), 'OneDL'),
    ):
        assert faults(facts)[name].verdict == 'warn' and usable(judge(facts))
    assert 'setuptools' not in faults(with_versions(setuptools='81.0'))  # the last with pkg_resources


def test_oldest_torch_is_supported():
    for version in (oldest_torch(), f'{oldest_torch()}.0', f'{oldest_torch()}.1+cpu'):
        assert faults(with_versions(torch=version)) == {}


def test_mmengine_and_torch_conflict_only_if_old_meets_new():
    assert 'mmengine x torch' not in faults(with_versions(mmengine='0.10.6'))
    assert 'mmengine x torch' not in faults(with_versions(mmengine='0.10.5', torch='2.4.1'))


def test_empty_environment_gets_one_command_with_every_requirement():
    facts = Facts(python='3.12.1', failures={'pkg_resources': 'ModuleNotFoundError'})
    command = shlex.split(fix_command(judge(facts)))
    assert command[:4] == ['python', '-m', 'pip', 'install'] and set(requirements().values()) <= set(command)


@pytest.mark.parametrize(
    'text, parts', [('2.1.0+cu118', (2, 1, 0)), ('2.0.0rc4', (2, 0, 0)), ('80.9', (80, 9)), ('2.3.6.post1', (2, 3, 6))]
)
def test_release_reads_versions(text, parts):
    assert release(text) == parts

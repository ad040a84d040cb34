"""What an installed mmfreq consists of: version, requirements, configs in `mmfreq/.mim`, and nothing of the tests."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import mmfreq
from mmfreq.compat.stack import oldest_torch

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    'setup.py',
    'pyproject.toml',
    'MANIFEST.in',
    'LICENSE',
    'NOTICE.md',
    'README.md',
    'CHANGELOG.md',
    'model-index.yml',
]
PARTS_OF_OPENMMLAB = re.compile(r'(onedl-)?mm(cv|engine|det|seg|pretrain)', re.IGNORECASE)


def run(*command, cwd, env=None):
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f'{" ".join(map(str, command))}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}'
    return result.stdout


@pytest.fixture(scope='module')
def source_tree(tmp_path_factory):
    """A copy of what the repository ships, so that no build folder appears in the checkout, with a stale build in it."""
    tree = tmp_path_factory.mktemp('source') / 'mmfreq of someone'
    tree.mkdir()
    for name in SOURCES:
        shutil.copy2(ROOT / name, tree / name)
    for folder in ('mmfreq', 'configs', 'tools', 'tests'):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    stale = tree / 'build' / 'lib' / 'mmfreq' / '.mim' / 'configs' / 'renamed_since.py'
    stale.parent.mkdir(parents=True)
    stale.write_text('model = None\n')
    return tree


@pytest.fixture(scope='module')
def wheel(source_tree, tmp_path_factory):
    target = tmp_path_factory.mktemp('wheel')
    offline = ('--no-deps', '--no-build-isolation', '--no-index')
    run(sys.executable, '-m', 'pip', 'wheel', *offline, '-w', target, source_tree, cwd=target)
    (path,) = target.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def wheel_names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """What an installer makes of a wheel of pure Python."""
    target = tmp_path_factory.mktemp('installed')
    zipfile.ZipFile(wheel).extractall(target)
    return target


def files_of(folder, suffixes):
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob('*') if path.suffix in suffixes)


def test_version_is_one():
    assert re.fullmatch(r'\d+\.\d+\.\d+(\.?(dev|a|b|rc)\d+)?', mmfreq.__version__)
    first = re.search(r'^## \[(.+?)\]', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE).group(1)
    assert first in ('Unreleased', mmfreq.__version__)


@pytest.mark.slow
def test_wheel_holds_configs_tools_and_data(wheel, wheel_names):
    assert wheel.name.startswith(f'mmfreq-{mmfreq.__version__}-py3-none-any')
    configs = files_of('configs', {'.py', '.yml', '.md'})
    assert any(name.endswith('.py') for name in configs)
    expected = {f'mmfreq/.mim/{name}' for name in ['model-index.yml'] + configs + files_of('tools', {'.py', '.sh', '.txt'})}
    expected |= {name for name in files_of('mmfreq', {'.py', '.txt', '.json', '.yml'}) if '/.mim/' not in name}
    assert {'mmfreq/compat/lite.txt', 'mmfreq/compat/onedl.txt'} <= expected
    assert not expected - wheel_names


@pytest.mark.slow
def test_wheel_holds_nothing_else(wheel_names):
    assert not [name for name in wheel_names if not re.match(r'mmfreq(-[^/]+\.dist-info)?/', name)]
    wheel_names = wheel_names - {'mmfreq/.mim/tools/test_stacks.sh'}
    assert not [name for name in wheel_names if 'test_' in name or '__pycache__' in name or 'renamed_since' in name]
    assert {Path(name).name for name in wheel_names if '.dist-info/licenses/' in name} == {'LICENSE', 'NOTICE.md'}


@pytest.mark.slow
def test_wheel_requires_no_openmmlab_distribution(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith('.dist-info/METADATA')]
        header = archive.read(name).decode().split('\n\n')[0]
    required = re.findall(r'^Requires-Dist: (.+)$', header, re.MULTILINE)
    always = [line for line in required if 'extra ==' not in line]
    assert sorted(always) == ['numpy', f'torch>={oldest_torch()}', 'torchvision']
    extras = {extra: [line for line in required if f'extra == "{extra}"' in line] for extra in ('lite', 'onedl', 'export', 'dev')}
    assert all(extras.values())
    assert len(extras['lite']) == len((ROOT / 'mmfreq/compat/lite.txt').read_text().split())
    assert all(line.startswith('onedl-') for line in extras['onedl'] if PARTS_OF_OPENMMLAB.match(line))
    assert 'Requires-Python: >=3.10' in header


def inherit_by_name(folder, setup='', **environment):
    """(where mmfreq is, the config's own value, the inherited one) of a config in `folder` that inherits one of mmfreq's."""
    config = sorted((ROOT / 'configs').glob('seg/hornet/*.py'))[0]
    (folder / 'mine.py').write_text(f"_base_ = ['mmfreq::{config.relative_to(ROOT / 'configs').as_posix()}']\nmine = 1\n")
    code = f"""
{setup}
import mmfreq.registry
from mmengine import Config
config = Config.fromfile('mine.py')
print(mmfreq.__file__, config.mine, config.model.backbone.type, sep='\\n')
"""
    return run(sys.executable, '-c', code, cwd=folder, env=os.environ | environment).splitlines()[-3:]


@pytest.mark.slow
def test_installed_configs_can_be_inherited_by_name(installed, tmp_path):
    source, mine, backbone = inherit_by_name(tmp_path, PYTHONPATH=str(installed))
    assert source == str(installed / 'mmfreq' / '__init__.py')
    assert (mine, backbone) == ('1', 'mmfreq.HorNet')


@pytest.mark.slow
def test_source_distribution_can_be_built_from(source_tree, tmp_path):
    code = f'from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))'
    run(sys.executable, '-c', code, cwd=source_tree)
    (path,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(path) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    needed = set(SOURCES) | set(files_of('configs', {'.py', '.yml', '.md'})) | set(files_of('tools', {'.py', '.sh', '.txt'}))
    assert not needed - names
    assert not [name for name in names if name.startswith(('tests/', 'build/'))]


@pytest.mark.slow
def test_editable_build_links_the_configs(source_tree, tmp_path):
    tree = shutil.copytree(source_tree, tmp_path / 'tree')
    code = f'from setuptools import build_meta; print(build_meta.build_editable({str(tmp_path)!r}))'
    run(sys.executable, '-c', code, cwd=tree)
    link = tree / 'mmfreq' / '.mim' / 'configs'
    assert link.is_symlink()
    assert link.resolve() == (tree / 'configs').resolve()
    assert not os.path.isabs(os.readlink(link))

    site = tmp_path / 'site'
    (wheel,) = tmp_path.glob('*.whl')
    zipfile.ZipFile(wheel).extractall(site)
    source, mine, backbone = inherit_by_name(tmp_path, f'import site; site.addsitedir({str(site)!r})', PYTHONPATH='')
    assert source == str(tree / 'mmfreq' / '__init__.py')
    assert (mine, backbone) == ('1', 'mmfreq.HorNet')

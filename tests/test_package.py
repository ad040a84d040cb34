"""The built distributions: metadata, contents, and configs in `mmfreq/.mim`; the version and its date are the same everywhere."""

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import mmfreq
from mmfreq.compat.stack import oldest_torch

ROOT = Path(__file__).resolve().parents[1]
# what a source archive needs in addition to MANIFEST.in's folders
FILES = (
    '.gitignore',
    '.pre-commit-config.yaml',
    'CHANGELOG.md',
    'CITATION.cff',
    'CONTRIBUTING.md',
    'LICENSE',
    'MANIFEST.in',
    'NOTICE.md',
    'README.md',
    'model-index.yml',
    'model_zoo.md',
    'pyproject.toml',
    'setup.py',
)
FOLDERS = ('.ci', '.github', 'benchmarks', 'configs', 'docs', 'mmfreq', 'tests', 'tools')
IGNORED = ('__pycache__', '.mim', 'generated', '*.pyc')
EXTRAS = {
    'lite': ['mmfreq/compat/lite.txt'],
    'onedl': ['mmfreq/compat/onedl.txt'],
    'export': ['tools/requirements-export.txt'],
    'dev': ['tools/requirements-test.txt', 'tools/requirements-export.txt'],
}
PARTS_OF_OPENMMLAB = re.compile(r'(onedl-)?mm(cv|engine|det|seg|pretrain)', re.IGNORECASE)


def run(*command, cwd, env=None):
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f'{" ".join(map(str, command))}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}'
    return result.stdout


@pytest.fixture(scope='module')
def source_tree(tmp_path_factory):
    """A copy of the sources, so that no build folder appears in the checkout; with the build folder of an earlier version."""
    tree = tmp_path_factory.mktemp('source') / 'mmfreq of someone'
    tree.mkdir()
    for name in FILES:
        shutil.copy2(ROOT / name, tree / name)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns(*IGNORED))
    stale = tree / 'build' / 'lib' / 'mmfreq' / '.mim' / 'configs' / 'renamed_since.py'
    stale.parent.mkdir(parents=True)
    stale.write_text('model = None\n')
    return tree


@pytest.fixture(scope='module')
def distributions(source_tree, tmp_path_factory):
    """(wheel, source archive), built as for a release, except that the wheel is not built from the archive."""
    target = tmp_path_factory.mktemp('dist')
    run(sys.executable, '-m', 'build', '--no-isolation', '--wheel', '--sdist', '--outdir', target, source_tree, cwd=target)
    (wheel,), (archive,) = target.glob('*.whl'), target.glob('*.tar.gz')
    return wheel, archive


@pytest.fixture(scope='module')
def wheel_names(distributions):
    with zipfile.ZipFile(distributions[0]) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope='module')
def metadata(distributions, wheel_names):
    (name,) = [name for name in wheel_names if name.endswith('.dist-info/METADATA')]
    with zipfile.ZipFile(distributions[0]) as wheel:
        return email.message_from_bytes(wheel.read(name))


def files_of(tree, folder):
    return {path.relative_to(tree).as_posix() for path in (tree / folder).rglob('*') if path.is_file()}


def requirements(path):
    lines = (line.partition('#')[0].strip() for line in (ROOT / path).read_text(encoding='utf-8').splitlines())
    return [line for line in lines if line]


def test_version_and_date_are_the_same_everywhere():
    assert re.fullmatch(r'\d+\.\d+\.\d+(\.?(dev|a|b|rc)\d+)?', mmfreq.__version__)
    first, *rest = re.findall(r'^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert first == ('Unreleased', '')
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert rest[0] == (mmfreq.__version__, str(citation['date-released'])) == (citation['version'], str(citation['date-released']))


def test_requirement_files_are_sorted_and_read_by_the_set_up():
    script = (ROOT / 'tools' / 'env.sh').read_text(encoding='utf-8')
    for path in EXTRAS['dev']:
        assert requirements(path) == sorted(requirements(path), key=str.lower)
        assert f'"$MMFREQ_ROOT/{path}"' in script


@pytest.mark.slow
def test_the_package_index_accepts_both(distributions):
    out = run(sys.executable, '-m', 'twine', 'check', '--strict', *distributions, cwd=ROOT)
    assert out.count('PASSED') == 2


@pytest.mark.slow
def test_wheel_has_package_data_configs_and_tools(source_tree, distributions, wheel_names):
    assert distributions[0].name == f'mmfreq-{mmfreq.__version__}-py3-none-any.whl'
    package, configs, tools = (files_of(source_tree, folder) for folder in ('mmfreq', 'configs', 'tools'))
    assert {'mmfreq/py.typed', 'mmfreq/compat/lite.txt', 'mmfreq/demo/page.html'} <= package and configs and tools
    expected = package | {f'mmfreq/.mim/{name}' for name in {'model-index.yml'} | configs | tools}
    assert {name for name in wheel_names if '.dist-info/' not in name} == expected
    assert {Path(name).name for name in wheel_names if '.dist-info/licenses/' in name} == {'LICENSE', 'NOTICE.md'}


@pytest.mark.slow
def test_metadata(metadata):
    assert metadata['Name'] == 'mmfreq' and metadata['License-Expression'] == 'Apache-2.0'
    assert metadata['Requires-Python'] == '>=3.10' and 'Typing :: Typed' in metadata.get_all('Classifier')
    required = metadata.get_all('Requires-Dist')
    assert sorted(line for line in required if 'extra ==' not in line) == ['numpy', f'torch>={oldest_torch()}', 'torchvision']
    assert set(metadata.get_all('Provides-Extra')) == set(EXTRAS)
    for extra, files in EXTRAS.items():
        found = [line.partition(';')[0].strip() for line in required if f'extra == "{extra}"' in line]
        assert sorted(found) == sorted(line for path in files for line in requirements(path)) != []
    onedl = requirements('mmfreq/compat/onedl.txt')
    assert all(line.startswith('onedl-') for line in onedl if PARTS_OF_OPENMMLAB.match(line))


@pytest.mark.slow
def test_source_archive_has_everything_that_the_tests_read(source_tree, distributions):
    with tarfile.open(distributions[1]) as archive:
        names = {name.partition('/')[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    assert set(FILES).union(*(files_of(source_tree, folder) for folder in FOLDERS)) <= names
    assert not [name for name in names if name.startswith('build/') or '__pycache__' in name or '/.mim/' in name]


def test_the_archive_covers_the_repository():
    """Each file that git tracks is one of FILES or in one of FOLDERS."""
    if not (ROOT / '.git').exists() or shutil.which('git') is None:
        pytest.skip('not a git checkout')
    tracked = run('git', 'ls-files', cwd=ROOT).splitlines()
    assert len(tracked) > 100
    assert not [name for name in tracked if name not in FILES and name.partition('/')[0] not in FOLDERS]


def inherit_by_name(folder, *sites):
    """(where mmfreq is, the config's own value, the inherited one) of a config in `folder` that inherits one of mmfreq's.

    The interpreter reads the .pth files of `sites` only: mmfreq may be installed in this environment, too.
    """
    config = sorted((ROOT / 'configs').glob('seg/hornet/*.py'))[0]
    (folder / 'mine.py').write_text(f"_base_ = ['mmfreq::{config.relative_to(ROOT / 'configs').as_posix()}']\nmine = 1\n")
    code = f"""
import site, sys
for each in {[str(each) for each in sites]}:
    site.addsitedir(each)
sys.path += {[sysconfig.get_path('purelib'), sysconfig.get_path('platlib')]}
import mmfreq.registry
from mmengine import Config
config = Config.fromfile('mine.py')
print(mmfreq.__file__, config.mine, config.model.backbone.type, sep='\\n')
"""
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    return run(sys.executable, '-S', '-c', code, cwd=folder, env=environment).splitlines()[-3:]


@pytest.mark.slow
def test_installed_configs_can_be_inherited_by_name(distributions, tmp_path):
    site = tmp_path / 'site'
    zipfile.ZipFile(distributions[0]).extractall(site)
    assert inherit_by_name(tmp_path, site) == [str(site / 'mmfreq' / '__init__.py'), '1', 'mmfreq.HorNet']


@pytest.mark.slow
def test_editable_build_links_the_configs(source_tree, tmp_path):
    tree = shutil.copytree(source_tree, tmp_path / 'tree')
    code = f'from setuptools import build_meta; print(build_meta.build_editable({str(tmp_path)!r}))'
    run(sys.executable, '-c', code, cwd=tree)
    link = tree / 'mmfreq' / '.mim' / 'configs'
    assert link.is_symlink() and not os.path.isabs(os.readlink(link))
    assert link.resolve() == (tree / 'configs').resolve()

    site = tmp_path / 'site'
    (wheel,) = tmp_path.glob('*.whl')
    zipfile.ZipFile(wheel).extractall(site)
    assert inherit_by_name(tmp_path, site) == [str(tree / 'mmfreq' / '__init__.py'), '1', 'mmfreq.HorNet']

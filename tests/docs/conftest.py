"""The site, built once for all workers of a test run, in a copy of the source tree so that the checkout stays as it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
EXTENSIONS = ('sphinx', 'myst_parser', 'furo', 'sphinx_gallery', 'sphinx_copybutton')


def copy_of_tree(folder):
    """A copy of the source tree, which the pages link to and include; its `docs`."""
    skip = shutil.ignore_patterns('.*', '__pycache__', 'generated', '_build', 'work_dirs', 'data', '*.egg-info', 'build', 'dist')
    shutil.copytree(ROOT, folder, ignore=skip)
    return folder / 'docs'


def build(source, target):
    """Build the site with warnings as errors; the finished process."""
    command = [sys.executable, '-W', 'ignore', '-m', 'sphinx', '-b', 'html', '-n', '-W', '--keep-going', '-q', source, target]
    environment = os.environ | {'PYTHONPATH': str(source.parent), 'MPLBACKEND': 'agg'}
    return subprocess.run(command, env=environment, cwd=source, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope='session')
def site(tmp_path_factory, request):
    """The folder of the built HTML."""
    for name in EXTENSIONS:
        pytest.importorskip(name, reason='the packages of tools/requirements-test.txt are not installed')
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, 'workerinput') else base) / 'site'
    with FileLock(f'{folder}.lock'):
        if not folder.exists():
            done = build(copy_of_tree(folder), folder / 'html')
            (folder / 'log').write_text(done.stdout + done.stderr, encoding='utf-8')
            (folder / 'status').write_text(str(done.returncode))
    assert (folder / 'status').read_text() == '0', (folder / 'log').read_text(encoding='utf-8')[-8000:]
    return folder / 'html'

"""A trained work directory, made once, and a way to show that nothing was changed."""

from pathlib import Path

import pytest

import mmfreq  # noqa: F401
from mmfreq.engine.launch import train
from mmfreq.testing.toy_segmentation import write_toy_config
from tests.engine._short_runs import shorten


@pytest.fixture(scope='package', autouse=True)
def short_runs():
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch.setattr)
        yield


@pytest.fixture(scope='session')
def trained(toy_root, tmp_path_factory):
    """A work directory after two iterations; its config lies beside it. Tests only read it, or copy it."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_toy_config(folder / 'toy.py', toy_root)
    train(config, work_dir=folder / 'work')
    return folder / 'work'


@pytest.fixture
def snapshot():
    """A function that gives the content of every file under a folder, to show that nothing was changed."""

    def take(folder):
        return {path: path.read_bytes() for path in sorted(Path(folder).rglob('*')) if path.is_file()}

    return take

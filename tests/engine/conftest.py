"""A trained work directory, made once, and a way to show that nothing was changed."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import mmfreq  # noqa: F401
from mmfreq.engine.launch import train
from mmfreq.testing.toy_segmentation import write_toy_config


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='package', autouse=True)
def one_thread():
    """Models this small are slower on two, the more so on a busy machine."""
    with threads(1):
        yield


@pytest.fixture(scope='session')
def trained(toy_root, tmp_path_factory):
    """A work directory after two iterations; its config lies beside it. Tests only read it, or copy it."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_toy_config(folder / 'toy.py', toy_root)
    with threads(1):  # this fixture is made before the one of the package; sums over two threads are others
        train(config, work_dir=folder / 'work')
    return folder / 'work'


@pytest.fixture
def snapshot():
    """A function that gives the content of every file under a folder, to show that nothing was changed."""

    def take(folder):
        return {path: path.read_bytes() for path in sorted(Path(folder).rglob('*')) if path.is_file()}

    return take

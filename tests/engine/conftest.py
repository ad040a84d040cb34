"""A trained work directory, made once, and a way to show that nothing was changed."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import config
from mmengine.dataset import base_dataset

import mmfreq  # noqa: F401
from mmfreq.compat import facts
from mmfreq.engine.launch import train
from mmfreq.testing.toy_segmentation import write_toy_config


@pytest.fixture(scope='package', autouse=True)
def short_runs():
    """A run without what takes half of its time here and changes nothing in it.

    mmengine formats the config with yapf five times a run, and collects garbage for every data set; the preflight checks read the
    source of all of mmcv's ops.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, 'FormatCode', lambda text, **_: (text, True))
        patch.setattr(base_dataset, 'gc', SimpleNamespace(collect=lambda: 0))
        patch.setattr(facts, 'ops_asked_for', cache(facts.ops_asked_for))
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

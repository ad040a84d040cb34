"""What every test gets: two threads, fixed seeds and no default scope of another test.

The `gpu` marker is skipped, with a count, where there is no CUDA device.
"""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

import mmfreq  # noqa: F401  (before mmdet and mmseg: supplies mmcv._ext)

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def fixed_seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def scope_of_its_own():
    """A Runner leaves its default scope behind, in which the next test's modules would be looked up."""
    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker('gpu'):
            item.add_marker(pytest.mark.skip(reason='gpu: no CUDA device here'))


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get('skipped', [])
    count = sum('gpu: no CUDA device here' in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f'{count} test(s) marked gpu did not run: no CUDA device here')


@pytest.fixture(scope='session')
def golden_folder():
    return Path(__file__).parent / 'golden'

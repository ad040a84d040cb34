"""What every test gets: two threads, fixed seeds, and the `gpu` marker skipped where there is no CUDA device, with a count."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import mmfreq  # noqa: F401  (before mmdet and mmseg: supplies mmcv._ext)

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def fixed_seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


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

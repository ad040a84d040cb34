"""What every test gets: one thread, fixed seeds, and no default scope and no logger of another test.

`tools/run_tests.sh` runs one worker per core, so each worker and each process that it starts gets one thread.

The `gpu` marker is skipped, with a count, where there is no CUDA device; so are tests in a browser, by `tests/demo/conftest.py`.
"""

import os
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import config, utils
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

import mmfreq.registry  # noqa: F401  (before mmdet and mmseg: supplies mmcv._ext, and lets mmengine find OneDL's configs)
from mmfreq.testing.golden import LIMITS
from tests.short_runs import shorten

FOLDER = Path(__file__).parent
# what depends on the processor's instructions, beside what is compared with published numbers
NUMERICS = (FOLDER / 'numerics', FOLDER / 'models/test_precision.py')


def pytest_addoption(parser):
    parser.addoption('--threads', type=int, default=1, help='threads of torch in each process')
    parser.addoption('--golden-dtype', default='float32', help='float64: measure the rounding of the golden files themselves')


def pytest_configure(config):
    threads = config.getoption('--threads')
    torch.set_num_threads(threads)
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))  # of processes that tests start


@pytest.fixture(autouse=True)
def fixed_seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def nothing_of_earlier_runs(request):
    """A Runner leaves behind its default scope, where the next test would look up modules, and its logger with its file."""
    torch.set_num_threads(request.config.getoption('--threads'))  # tools/benchmark.py sets its own
    for kept in (DefaultScope, MMLogger):
        kept._instance_dict.clear()
    yield
    for kept in (DefaultScope, MMLogger):
        kept._instance_dict.clear()


@pytest.fixture(autouse=True, scope='session')
def metafiles_read_once():
    """mmengine reads a library's metafiles, and asks what is installed, again for every base that a config takes from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', cache(utils.load))
        patch.setattr(config, 'is_installed', cache(config.is_installed))
        yield


@pytest.fixture(autouse=True, scope='session')
def short_runs():
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch.setattr)
        yield


@pytest.fixture(scope='session')
def toy_root(tmp_path_factory):
    """A few generated pictures in the layout of ADE20K."""
    from mmfreq.datasets.toy import write_toy_ade20k

    root = tmp_path_factory.mktemp('toy')
    write_toy_ade20k(root, train=8, val=2, size=(64, 64), seed=0)
    return root


@pytest.fixture(scope='session')
def trained(toy_root, tmp_path_factory):
    """A work directory after two iterations; its config lies beside it. Tests only read it, or copy it."""
    from mmfreq.engine.launch import train
    from mmfreq.testing.toy_segmentation import write_toy_config

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


@pytest.fixture
def toy_config(toy_root, tmp_path):
    """A config of seconds on them."""
    from mmfreq.testing.toy_segmentation import write_toy_config

    return write_toy_config(tmp_path / 'toy.py', toy_root)


@pytest.fixture
def within_limit(request, record_property):
    """`within_limit(kind, error, where='')` asserts that the distance to a golden number is below the limit of its kind.

    Every distance is a property of the test in a report of `--junitxml`, from which benchmarks/golden_errors.py makes its table.
    """
    dtype = getattr(torch, request.config.getoption('--golden-dtype'))
    torch.set_default_dtype(dtype)

    def check(kind, error, where=''):
        record_property(f'golden: {kind}', error)
        assert error < LIMITS[kind], f'{kind} {where}: {error:.2e} from the published numbers, the limit is {LIMITS[kind]:.0e}'

    yield check
    torch.set_default_dtype(torch.float32)


@pytest.hookimpl(tryfirst=True)  # before `-m` is applied
def pytest_collection_modifyitems(items):
    for item in items:
        if item.name.startswith('test_golden') or 'within_limit' in getattr(item, 'fixturenames', ()):
            item.add_marker('golden')
        if any(item.path.is_relative_to(path) for path in NUMERICS):
            item.add_marker('numerics')
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker('gpu'):
            item.add_marker(pytest.mark.skip(reason='gpu: no CUDA device here'))


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get('skipped', [])
    for kind, told in (('gpu: ', 'marked gpu'), ('browser: ', 'of the page in a browser')):
        reasons = [str(report.longrepr[2]).removeprefix('Skipped: ') for report in skipped if isinstance(report.longrepr, tuple)]
        reasons = [reason.removeprefix(kind) for reason in reasons if reason.startswith(kind)]
        if reasons:
            terminalreporter.write_line(f'{len(reasons)} test(s) {told} did not run: {reasons[0]}')


@pytest.fixture(scope='session')
def golden_folder():
    return Path(__file__).parent / 'golden'

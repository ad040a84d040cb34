"""Fixtures for all tests: one thread, fixed seeds, and no default scope or logger from another test.

`tools/run_tests.sh` runs one worker per core, so each worker and each process that it starts gets one thread.

Without a CUDA device, tests marked `gpu` are skipped and counted; so are tests in a browser without Chromium,
and of runtimes that are not installed.
"""

import importlib
import multiprocessing
import os
import random
import shutil
import socket
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from mmengine.config import config, utils
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

import mmfreq.registry  # noqa: F401  (before mmdet and mmseg: supplies mmcv._ext, and lets mmengine find OneDL's configs)
from mmfreq.testing.golden import LIMITS
from tests.short_runs import shorten

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
FOLDER = Path(__file__).parent
# files with a test that takes minutes: they start first, so that no worker is alone with them at the end
LONGEST = (
    *('test_soak.py', 'test_toy_detection.py', 'test_site.py', 'test_adding_a_size.py'),
    *('test_distributed_options.py', 'test_reproduce.py', 'test_compare_backbones.py', 'test_runtimes.py'),
)
# tests that depend on the instruction set, beside those that compare with published numbers
NUMERICS = (FOLDER / 'numerics', FOLDER / 'models/test_precision.py')


def pytest_addoption(parser):
    parser.addoption('--threads', type=int, default=1, help='number of torch threads in each process')
    parser.addoption('--golden-dtype', default='float32', help='float64 measures the rounding of the golden files themselves')


def pytest_configure(config):
    threads = config.getoption('--threads')
    torch.set_num_threads(threads)
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))  # for processes that tests start


@pytest.fixture(scope='session')
def benchmark_script():
    """`benchmark_script(name)`: the module of a script in benchmarks/, which imports others of that folder by their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER.parent / 'benchmarks'))
        yield importlib.import_module


@pytest.fixture(scope='session')
def made_once(tmp_path_factory, request):
    """`made_once(name, make)`: a folder that `make(folder)` fills once for all workers; tests do not change its files."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, 'workerinput') else base

    def get(name, make):
        folder = shared / name
        with FileLock(f'{folder}.lock'):
            if not (shared / f'{name}.made').exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                (shared / f'{name}.made').touch()
        return folder

    return get


@pytest.fixture(autouse=True)
def fixed_seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_state_of_earlier_runs(request):
    """Remove the default scope and the logger that a Runner of another test has left."""
    torch.set_num_threads(request.config.getoption('--threads'))  # tools/benchmark.py sets its own
    for kept in (DefaultScope, MMLogger):
        kept._instance_dict.clear()
    yield
    for kept in (DefaultScope, MMLogger):
        kept._instance_dict.clear()


@pytest.fixture(autouse=True, scope='session')
def metafiles_read_once():
    """Cache the metafiles of the libraries, which mmengine reads again for every base config."""
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
    """A few generated images in the layout of ADE20K."""
    from mmfreq.datasets.toy import write_toy_ade20k

    root = tmp_path_factory.mktemp('toy')
    write_toy_ade20k(root, train=8, val=2, size=(64, 64), seed=0)
    return root


@pytest.fixture(scope='session')
def trained(toy_root, tmp_path_factory):
    """A work directory after two iterations of `toy.py` beside it; tests read or copy it, and do not change it."""
    from mmfreq.engine.launch import train
    from mmfreq.testing.toy_segmentation import write_toy_config

    folder = tmp_path_factory.mktemp('trained')
    config = write_toy_config(folder / 'toy.py', toy_root)
    train(config, work_dir=folder / 'work')
    return folder / 'work'


@pytest.fixture
def snapshot():
    """`snapshot(folder)`: the content of every file in it, to show that nothing was changed."""

    def take(folder):
        return {path: path.read_bytes() for path in sorted(Path(folder).rglob('*')) if path.is_file()}

    return take


@pytest.fixture
def toy_config(toy_root, tmp_path):
    """A config that trains on `toy_root` in seconds."""
    from mmfreq.testing.toy_segmentation import write_toy_config

    return write_toy_config(tmp_path / 'toy.py', toy_root)


@pytest.fixture
def within_limit(request, record_property):
    """`within_limit(name, error, where='')` asserts that the distance to a golden number is below `LIMITS[name]`.

    Every distance is recorded in the report of `--junitxml`, from which benchmarks/golden_errors.py makes its table.
    """
    dtype = getattr(torch, request.config.getoption('--golden-dtype'))
    torch.set_default_dtype(dtype)

    def check(name, error, where=''):
        record_property(f'golden: {name}', error)
        assert error < LIMITS[name], f'{name} {where}: {error:.2e} from the published numbers, the limit is {LIMITS[name]:.0e}'

    yield check
    torch.set_default_dtype(torch.float32)


@pytest.hookimpl(tryfirst=True)  # before `-m` is applied
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)  # the rest keeps its order, and fills the other workers
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
    for prefix, tests in (('gpu: ', 'marked gpu'), ('browser: ', 'of the page in a browser'), ('runtime: ', 'of runtimes')):
        reasons = [str(report.longrepr[2]).removeprefix('Skipped: ') for report in skipped if isinstance(report.longrepr, tuple)]
        reasons = [reason.removeprefix(prefix) for reason in reasons if reason.startswith(prefix)]
        if reasons:
            terminalreporter.write_line(f'{len(reasons)} test(s) {tests} did not run: {reasons[0]}')


@pytest.fixture
def free_port():
    """A TCP port of this host that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


@pytest.fixture(scope='session')
def golden_folder():
    return Path(__file__).parent / 'golden'


@pytest.fixture(scope='session')
def browser():
    """Chromium without a window; skips where it or Playwright is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip('browser: Playwright is not installed (pip install playwright)')
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f'browser: none of {", ".join(BROWSERS)} is on PATH')
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()
        # Playwright waits until its pipes are closed; forked workers of data loaders that a test left have copies
        for child in multiprocessing.active_children():
            child.terminate()

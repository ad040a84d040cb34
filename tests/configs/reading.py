"""Config files for tests: each is parsed once per process, and checks over many files report all failures in one message."""

import copy
import traceback
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

import mmfreq.registry  # also lets mmengine find the configs of OneDL's libraries

CONFIGS = Path(mmfreq.__file__).parents[1] / 'configs'
parse = Config.fromfile


@cache
def _parsed(path):
    return parse(path)


def read_config(path, **options):
    """The config of a file, as a copy that may be changed. Files outside configs/ are always read again."""
    path = Path(path)
    return copy.deepcopy(_parsed(path)) if CONFIGS in path.parents and not options else parse(path, **options)


@contextmanager
def configs_parsed_once():
    """Make the package read configs through `read_config`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'fromfile', staticmethod(read_config))
        yield


def check_each(cases, check, label=lambda case: case.stem):
    """Run `check` on each case, and fail with a message that lists every case that it failed on."""
    cases = list(cases)
    assert cases
    failures = []
    for case in cases:
        try:
            check(case)
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1].lineno
            failures.append(f'{label(case)}: {type(error).__name__} in line {line}: {error}')
    assert not failures, f'{len(failures)} of {len(cases)} failed:\n' + '\n'.join(failures)

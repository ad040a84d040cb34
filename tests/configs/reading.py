"""Config files for tests: each is parsed once in a process, and a law over many files reports all failures in one message."""

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
    """The config of a file; a copy, which the caller may change. A file that is not one of the project's is always read."""
    path = Path(path)
    return copy.deepcopy(_parsed(path)) if CONFIGS in path.parents and not options else parse(path, **options)


@contextmanager
def configs_parsed_once():
    """Lets the package read the project's configs as `read_config` does."""
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

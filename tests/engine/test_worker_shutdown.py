"""Data workers ignore the first SIGTERM; a process that exits must not wait for them."""

import subprocess
import sys

import pytest

# The process forks, so that everything is imported once; a child exits like any Python process.
CODE = """
import os
import sys
import mmfreq
from functools import partial
from torch.utils.data import DataLoader
from mmfreq.engine.resume.stop_signal import ignore_first_sigterm, stop_requests
for end in ('fault', 'success'):
    child = os.fork()
    if child == 0:
        break
    print(end, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
with stop_requests():
    init = partial(ignore_first_sigterm, None)
    batches = iter(DataLoader(range(100), num_workers=2, persistent_workers=True, worker_init_fn=init))
    next(batches)
    sys.modules['kept'] = batches  # as a traceback would
    print('ending', flush=True)
    if end == 'fault':
        raise ValueError('a fault in training')
"""


@pytest.mark.slow
def test_process_with_workers_that_ignore_sigterm_exits():
    process = subprocess.Popen([sys.executable, '-c', CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        printed, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0 and printed.splitlines() == ['ending', 'fault 1', 'ending', 'success 0'], errors
    assert errors.count('a fault in training') == errors.count('Traceback') == 1 and 'killed by signal' not in errors, errors

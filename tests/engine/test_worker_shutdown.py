"""Data workers let a first SIGTERM pass; a process that ends must not wait for them."""

import subprocess
import sys
import time

import pytest

CODE = """
import sys
import mmfreq
from functools import partial
from torch.utils.data import DataLoader
from mmfreq.engine.stop_signal import spare_first_signal, stop_requests
with stop_requests():
    batches = iter(DataLoader(range(100), num_workers=2, persistent_workers=True, worker_init_fn=partial(spare_first_signal, None)))
    next(batches)
    sys.modules['kept'] = batches  # as a traceback keeps it
    print('ending', flush=True)
    if sys.argv[1] == 'fault':
        raise ValueError('a fault in training')
"""


@pytest.mark.slow
@pytest.mark.parametrize('end', ['fault', 'success'])
def test_a_process_with_sparing_workers_ends(end):
    process = subprocess.Popen([sys.executable, '-c', CODE, end], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == 'ending\n'
        begun = time.monotonic()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (end == 'fault') and 'killed by signal' not in errors, errors
    assert ('a fault in training' in errors) == (end == 'fault') == ('Traceback' in errors)
    assert time.monotonic() - begun < 30

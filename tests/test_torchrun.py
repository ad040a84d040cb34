"""The launcher forwards stop signals to the processes, and exits with their status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A rank that writes a file when it runs, and another one on the signal. It exits when all ranks have written it, as after the
# barrier of a training run: the launcher ends the other ranks as soon as one has exited.
RANK = """
import os, pathlib, signal, sys, time
folder, name, status = sys.argv[1:]
def answer(number, frame):
    pathlib.Path(folder, os.environ["RANK"] + '.heard').write_text(signal.Signals(number).name)
    deadline = time.monotonic() + 30
    while len(list(pathlib.Path(folder).glob('*.heard'))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os._exit(int(status))
signal.signal(getattr(signal, name), answer)
open(f'{folder}/{os.environ["RANK"]}.runs', 'w').close()
time.sleep(300)
"""


def launched(tmp_path, *arguments):
    (tmp_path / 'rank.py').write_text(RANK)
    launcher = [sys.executable, '-m', 'mmfreq.torchrun', '--standalone', '--nproc_per_node', '2']
    command = list(map(str, [*launcher, tmp_path / 'rank.py', tmp_path, *arguments]))
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {'PYTHONPATH': str(ROOT)}, stderr=subprocess.PIPE, text=True)


def wait_for(tmp_path, pattern):
    for _ in range(6000):
        if len(list(tmp_path.glob(pattern))) == 2:
            return
        time.sleep(0.05)
    pytest.fail(f'no two {pattern} within five minutes')


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'status', 'ends'), [('SIGTERM', 75, 75), ('SIGUSR1', 75, 75), ('SIGTERM', 3, 1)])
def test_stop_signal_reaches_the_processes(tmp_path, name, status, ends):
    launcher = launched(tmp_path, name, status)
    wait_for(tmp_path, '*.runs')
    launcher.send_signal(getattr(signal, name))
    _, printed = launcher.communicate(timeout=300)
    assert launcher.returncode == ends, printed
    assert [(tmp_path / f'{rank}.heard').read_text() for rank in (0, 1)] == [name] * 2
    assert ('it saved its state' in printed) == (status == 75)

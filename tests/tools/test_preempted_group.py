"""dist_train.sh on SIGTERM: both processes stop after the same iteration, save once and exit with 75; --resume continues there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmfreq.engine.resume.start import latest_checkpoint
from tests.tools._light_run import OPEN_GROUP, write_light_config

ROOT = Path(__file__).resolve().parents[2]


def launched(folder, *options):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', folder / 'light.py', 2, '--work-dir', folder / 'work', *options]
    paths = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    environment = os.environ | {'PATH': path, 'PYTHONPATH': paths, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    with open(folder / 'printed.txt', 'a') as printed:
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stdout=printed, stderr=printed)


def logged(folder):
    """Iteration -> loss, of everything that the first process logged."""
    lines = [line for log in sorted((folder / 'work').glob('*/vis_data/scalars.json')) for line in log.read_text().splitlines()]
    entries = [json.loads(line) for line in lines if line.endswith('}')]
    return [(entry['step'], entry['loss']) for entry in entries if 'loss' in entry]


@pytest.mark.slow
def test_preempted_group_saves_once_and_resumes(tmp_path):
    write_light_config(tmp_path / 'light.py', max_iters=10**8)
    run = launched(tmp_path)
    started = time.monotonic()
    while len(logged(tmp_path)) < 3 and run.poll() is None and time.monotonic() - started < 600:
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    assert run.wait(600) == 75, (tmp_path / 'printed.txt').read_text()[-5000:]
    printed = (tmp_path / 'printed.txt').read_text()
    assert printed.count('Stopped by ') == 1 and 'Traceback' not in printed
    path, content = latest_checkpoint(tmp_path / 'work')
    done = content['meta']['iter']
    assert path.name == f'interrupted_iter_{done}.pth' and logged(tmp_path)[-1][0] == done

    again = launched(tmp_path, '--resume', '--cfg-options', f'train_cfg.max_iters={done + 2}')
    assert again.wait(600) == 0, (tmp_path / 'printed.txt').read_text()[-5000:]
    assert [step for step, _ in logged(tmp_path)] == list(range(1, done + 3))
    assert OPEN_GROUP not in (tmp_path / 'printed.txt').read_text()

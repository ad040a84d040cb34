"""dist_train.sh that gets SIGTERM: both processes agree on an iteration, save once, and end with 75; --resume goes on there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.engine.resume import latest_checkpoint
from mmfreq.testing.toy_segmentation import toy_segmentor, write_toy_config

ROOT = Path(__file__).resolve().parents[2]


def launched(folder, *options):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', folder / 'toy.py', 2, '--work-dir', folder / 'work', *options]
    environment = os.environ | {'PATH': path, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    with open(folder / 'printed.txt', 'a') as printed:
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stdout=printed, stderr=printed)


def logged(folder):
    """Iteration -> loss, of everything that the first process logged."""
    lines = [line for log in sorted((folder / 'work').glob('*/vis_data/scalars.json')) for line in log.read_text().splitlines()]
    entries = [json.loads(line) for line in lines if line.endswith('}')]
    return [(entry['step'], entry['loss']) for entry in entries if 'loss' in entry]


@pytest.mark.slow
def test_a_preempted_group_saves_once_and_goes_on(tmp_path):
    write_toy_ade20k(tmp_path / 'data', train=4, val=2, size=(64, 64))
    write_toy_config(tmp_path / 'toy.py', tmp_path / 'data', max_iters=1000, model=toy_segmentor('GN'))
    run = launched(tmp_path, '--cfg-options', 'default_hooks.checkpoint.interval=1000')
    started = time.monotonic()
    while len(logged(tmp_path)) < 3 and run.poll() is None and time.monotonic() - started < 240:
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) == 75, (tmp_path / 'printed.txt').read_text()[-5000:]
    printed = (tmp_path / 'printed.txt').read_text()
    assert printed.count('Asked to stop by ') == 1 and 'Traceback' not in printed
    path, content = latest_checkpoint(tmp_path / 'work')
    done = content['meta']['iter']
    assert path.name == f'interrupted_iter_{done}.pth' and logged(tmp_path)[-1][0] == done

    again = launched(tmp_path, '--resume', '--cfg-options', f'train_cfg.max_iters={done + 2}')
    assert again.wait(240) == 0, (tmp_path / 'printed.txt').read_text()[-5000:]
    assert [step for step, _ in logged(tmp_path)] == list(range(1, done + 3))

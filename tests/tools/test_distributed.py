"""Two processes on the CPU (gloo): the same gradients as one process, and the script that users start."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmfreq  # noqa: F401
from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.testing.toy_segmentation import toy_segmentor, write_toy_config

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name('_ddp_worker.py')
TOY = 'configs/seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py'


def run(command, **environment):
    paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    env = os.environ | {'PYTHONPATH': os.pathsep.join(paths), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''} | environment
    result = subprocess.run([str(part) for part in command], env=env, cwd=ROOT, capture_output=True, text=True, timeout=540)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]
    return result.stdout + result.stderr


def difference(one, other):
    """The largest over all parameters of max |a - b| / max |b|."""
    return max(float((one[name] - value).abs().max() / value.abs().max()) for name, value in other.items())


@pytest.mark.slow
def test_two_processes_average_to_the_gradients_of_one(tmp_path):
    """No statistics of the batch in it: group norm in the head, drop path and dropout 0."""
    sys.path.insert(0, str(WORKER.parent))
    try:
        from _ddp_worker import gradients
    finally:
        sys.path.remove(str(WORKER.parent))
    from mmfreq.engine.launch import build_runner, prepare_train

    write_toy_ade20k(tmp_path / 'data', train=2, val=2, size=(64, 64))
    config = write_toy_config(tmp_path / 'ddp.py', tmp_path / 'data', model=toy_segmentor('GN'))
    runner = build_runner(prepare_train(config, work_dir=tmp_path / 'one'))
    runner.model.cpu()
    weights = runner.model.state_dict()
    torch.save(weights, tmp_path / 'weights.pth')
    expected = gradients(runner, weights, [0, 1])
    alone = gradients(runner, weights, [0])

    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2]
    run([*launch, WORKER, config, tmp_path / 'weights.pth', tmp_path / 'two', tmp_path])
    results = [torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in (0, 1)]
    assert [(result['wrapper'], result['world']) for result in results] == [('MMDistributedDataParallel', 2)] * 2
    for result in results:
        assert result['gradients'].keys() == expected.keys() and len(expected) > 50
        assert difference(result['gradients'], expected) < 1e-5
    assert difference(alone, expected) > 0.01  # the second picture matters, so the averaging was seen


@pytest.mark.slow
def test_dist_train_trains_the_toy_config(tmp_path):
    write_toy_ade20k(tmp_path / 'data', train=8, val=2, size=(128, 128))
    roots = [f'{name}_dataloader.dataset.data_root={tmp_path / "data"}' for name in ('train', 'val', 'test')]
    changes = [
        'train_cfg.max_iters=3',
        'train_cfg.val_interval=3',
        'default_hooks.logger.interval=1',
        'train_dataloader.batch_size=2',
    ]
    changes += ['train_dataloader.batch_size=2', *(f'{name}_dataloader.num_workers=0' for name in ('train', 'val'))]
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', TOY, 2, '--work-dir', tmp_path / 'work', '--cfg-options', *roots, *changes]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    printed = run(command, PATH=path)
    assert 'Iter(train) [3/3]' in printed and len(re.findall(r'Iter\(train\) \[3/3\]', printed)) == 1
    assert re.search(r'mIoU: \d', printed)
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert 'Distributed training: True' in log and 'GPU number: 2' in log
    assert torch.load(tmp_path / 'work' / 'iter_3.pth', weights_only=True)['meta']['iter'] == 3

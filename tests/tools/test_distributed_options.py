"""Two processes with the options of a training give the result of one process. One job for all, because starting it takes longest.

The first half trains configs through the engine. The second compares DDP's gradients with the mean over the gradients of each
process's samples, for every family, head and choice of stages.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.engine import launch
from mmfreq.testing.toy_segmentation import toy_segmentation_config, toy_segmentor, write_toy_config
from mmfreq.testing.whole_models import MICRO

HERE = Path(__file__).parent
SGD = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9}}


def backbone(**options):
    model = toy_segmentor('GN')
    model['backbone'] |= options
    return {'model': model}


def epochs(indices, batch_size):
    """One epoch, in order, without dropping the last, smaller batch."""
    return {
        'train_cfg': {'type': 'EpochBasedTrainLoop', 'max_epochs': 1, 'val_interval': 9},
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'indices': indices,
        'batch_size': batch_size,
    }


# name -> changes of the config of two processes and of that of one, which has twice the batch
CASES = {
    'plain': ({}, {}),
    'accumulated gradients': (
        {'batch_size': 1, 'max_iters': 4, 'optim_wrapper': SGD | {'accumulative_counts': 2}},
        {'batch_size': 4, 'max_iters': 2},
    ),
    'gradient clipping': ({'optim_wrapper': SGD | {'clip_grad': {'max_norm': 0.05}}},) * 2,
    'moving average': ({'custom_hooks': [{'type': 'EMAHook', 'momentum': 0.3}]},) * 2,
    'frozen stages': (backbone(frozen_stages=1),) * 2,
    'checkpointing': (backbone(with_cp=True),) * 2,
    # with 7 samples: 3 and 1 in the one process, 3 and 1 in the other, as the sampler begins again with the first sample
    'uneven last batch': (epochs(7, 3), epochs([0, 1, 2, 3, 4, 5, 6, 0], 6)),
}
BOTH = {'batch_size': 2, 'max_iters': 2, 'optim_wrapper': SGD, **backbone()}


def write_config(path, data, changes, factor=1):
    options = {**BOTH, 'batch_size': BOTH['batch_size'] * factor} | changes
    loader = toy_segmentation_config(data)['train_dataloader']
    loader['dataset']['pipeline'][2:2] = [{'type': 'RandomFlip', 'prob': 0.5}]
    loader['batch_size'] = options.pop('batch_size')
    loader['sampler'] = options.pop('sampler', loader['sampler'])
    if 'indices' in options:
        loader['dataset']['indices'] = options.pop('indices')
    without = {'val_dataloader': None, 'val_cfg': None, 'val_evaluator': None}
    return write_toy_config(path, data, train_dataloader=loader, **without, **options)


def checkpoint(folder):
    return torch.load(Path((folder / 'last_checkpoint').read_text()), weights_only=True)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_data(root)
    return root


def write_data(root):
    write_toy_ade20k(root, train=8, val=2, size=(64, 64))


@pytest.fixture(scope='module')
def two(made_once):
    """The folder in which two processes have trained all cases; `laws<rank>.json` has the results for the gradients."""
    return made_once('distributed_options', train_in_two_processes)


def train_in_two_processes(folder):
    data = folder / 'data'
    write_data(data)
    for name, (changes, _) in CASES.items():
        write_config(folder / f'{name}.py', data, changes)
    # SyncBN needs a GPU: it must become BN here
    write_toy_config(folder / 'sync.py', data, model=toy_segmentor('SyncBN'), sync_bn='torch')
    paths = [str(HERE.parents[1]), *filter(None, [os.environ.get('PYTHONPATH')])]
    env = {'PYTHONPATH': os.pathsep.join(paths), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    command += [str(HERE / '_options_worker.py'), str(folder)]
    result = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    (folder / 'printed.txt').write_text(result.stdout + result.stderr)


@pytest.fixture(scope='module')
def laws(two):
    """name -> the worse of both processes' outcomes."""
    each = [json.loads((two / f'laws{rank}.json').read_text()) for rank in range(2)]
    assert each[0].keys() == each[1].keys()
    return {name: max(each[0][name], each[1][name], key=lambda found: (isinstance(found, str), found)) for name in each[0]}


def difference(one, other):
    """The largest over all tensors of max |a - b| / max |b|."""
    assert one.keys() == other.keys() and len(other) > 50
    return max(float((one[name] - value).abs().max() / value.abs().max().clamp(min=1e-12)) for name, value in other.items())


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_two_processes_train_as_one(two, data, tmp_path, name, monkeypatch):
    monkeypatch.setattr(launch, 'check_run', lambda *_: None)  # seconds for each config; it has tests of its own
    launch.train(write_config(tmp_path / 'one.py', data, CASES[name][1], factor=2), work_dir=tmp_path / 'one')
    got, want = checkpoint(two / name), checkpoint(tmp_path / 'one')
    assert difference(got['state_dict'], want['state_dict']) < 1e-5
    assert ('ema_state_dict' in got) == ('ema_state_dict' in want) == (name == 'moving average')
    if name == 'moving average':
        assert difference(got['ema_state_dict'], want['ema_state_dict']) < 1e-5


@pytest.mark.slow
def test_options_change_the_result(two):
    """Except for the two that must not."""
    plain = checkpoint(two / 'plain')['state_dict']
    alike = {name for name in set(CASES) - {'plain'} if difference(checkpoint(two / name)['state_dict'], plain) < 1e-4}
    assert alike == {'accumulated gradients', 'checkpointing'}


@pytest.mark.slow
def test_sync_norms_are_replaced_without_a_gpu(two):
    printed = (two / 'printed.txt').read_text()
    assert printed.count('SyncBN -> BN in 1 places of the model, because there is no GPU.') == 1
    assert 'running_mean' in ''.join(checkpoint(two / 'sync')['state_dict'])


@pytest.mark.slow
def test_mmengines_sharded_strategy_trains_and_cannot_resume(two, laws):
    """If the end of this test fails, mmengine was fixed: see `refuse_sharding`."""
    assert laws["mmengine's strategy"] == BOTH['max_iters']
    sharded = checkpoint(two / 'sharded')['state_dict']
    assert sharded.keys() == checkpoint(two / 'plain')['state_dict'].keys()
    error = laws["mmengine's strategy, resumed"]
    assert 'in load_optim_state_dict' in error and error.rstrip().endswith("TypeError: unhashable type: 'dict'")


@pytest.mark.slow
def test_gradients_are_the_mean_over_the_processes(laws):
    of_models = {name: found for name, found in laws.items() if not name.startswith('mmengine')}
    assert 'Expected to have finished reduction in the prior iteration' in of_models.pop('an unused part')
    assert len(of_models) == (6 + 3) * 4 + 16 + 4 * len(MICRO) + 2 + 1
    assert not {name: found for name, found in of_models.items() if isinstance(found, str) or not found < 1e-5}


@pytest.mark.slow
@pytest.mark.gpu
def test_mixed_precision_under_ddp(data, dist_train, tmp_path):
    """On a GPU, which mmengine's AmpOptimWrapper needs; the laws include bfloat16 in DDP on a CPU."""
    config = write_config(tmp_path / 'toy.py', data, {})
    device = os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')[0]
    status, printed = dist_train(config, 1, '--work-dir', tmp_path / 'two', '--amp', CUDA_VISIBLE_DEVICES=device).wait()
    assert status == 0, printed[-5000:]
    launch.train(config, work_dir=tmp_path / 'one', amp=True)
    got, want = checkpoint(tmp_path / 'two'), checkpoint(tmp_path / 'one')
    assert 'loss_scaler' in got['optimizer']
    assert difference(got['state_dict'], want['state_dict']) < 0.01

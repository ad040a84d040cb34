"""Two nodes with two CPU processes each (gloo) train as one process with the same total batch does.

test_distributed_options.py has two processes on one node, with the options of a training. The model uses no batch statistics (group
norm in the head), and no drop path or dropout, because processes drop different parts.
"""

import json
import re
from pathlib import Path

import pytest
import torch

from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.engine.launch import train
from mmfreq.testing.toy_segmentation import toy_segmentation_config, toy_segmentor, write_toy_config

HERE = Path(__file__).parent
BATCH, ITERATIONS = 4, 4
NODES, PROCESSES = 2, 2  # on each node


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_toy_ade20k(root, train=7, val=3, size=(64, 64))
    return root


def write_config(folder, data, batch_size):
    """A run with random augmentations that records its losses and scores; plain SGD, as Adam magnifies rounding errors."""
    loader = toy_segmentation_config(data)['train_dataloader']
    loader['dataset']['pipeline'][2:2] = [{'type': 'RandomCrop', 'crop_size': (48, 64)}, {'type': 'RandomFlip', 'prob': 0.5}]
    return write_toy_config(
        folder / 'toy.py',
        data,
        max_iters=ITERATIONS,
        model=toy_segmentor('GN'),
        train_dataloader=loader | {'batch_size': batch_size, 'num_workers': 1, 'persistent_workers': True},
        optim_wrapper={'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9}},
        custom_imports={'imports': ['_record'], 'allow_failed_imports': False},
        custom_hooks=[{'type': 'RecordHook', 'out': str(folder / 'record')}],
    )


def weights_of(folder):
    return torch.load(folder / 'work' / f'iter_{ITERATIONS}.pth', weights_only=True)['state_dict']


def difference(one, other):
    """The largest over all tensors of max |a - b| / max |b|."""
    assert one.keys() == other.keys() and len(other) > 50
    return max(float((one[name] - value).abs().max() / value.abs().max()) for name, value in other.items())


@pytest.fixture(scope='module')
def single_process(data, tmp_path_factory):
    """(record, weights) of one process."""
    folder = tmp_path_factory.mktemp('single_process')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        train(write_config(folder, data, BATCH), work_dir=folder / 'work')
    return json.loads((folder / 'record' / '0.json').read_text()), weights_of(folder)


@pytest.mark.slow
def test_two_nodes_train_as_one_process_with_the_same_total_batch(single_process, data, dist_train, free_port, tmp_path):
    world = NODES * PROCESSES
    config = write_config(tmp_path, data, BATCH // world)
    place = {'MASTER_ADDR': '127.0.0.1', 'PORT': free_port, 'NNODES': NODES, 'PYTHONPATH': HERE}
    jobs = [dist_train(config, PROCESSES, '--work-dir', tmp_path / 'work', NODE_RANK=node, **place) for node in range(NODES)]
    printed = [job.wait() for job in jobs]
    assert [status for status, _ in printed] == [0] * NODES, printed
    records = [json.loads((tmp_path / 'record' / f'{rank}.json').read_text()) for rank in range(world)]
    assert not (tmp_path / 'record' / f'{world}.json').exists()

    record, weights = single_process
    assert len(record['losses']) == len(record['files']) == ITERATIONS
    for iteration in range(ITERATIONS):
        seen = [each['files'][iteration] for each in records]
        assert (
            [list(batch) for batch in zip(*seen)]
            == [  # the r-th of W processes has every W-th sample
                record['files'][iteration][start : start + world] for start in range(0, BATCH, world)
            ]
        )
        losses = [each['losses'][iteration] for each in records]
        assert sum(losses) / world == pytest.approx(record['losses'][iteration], rel=1e-5)
        assert max(losses) - min(losses) > 1e-4  # so that averaging makes a difference
    assert difference(weights_of(tmp_path), weights) < 1e-5
    assert record['scores']['mIoU'] > 0 and all(each['scores'] in ({}, record['scores']) for each in records)
    assert records[0]['scores'] == record['scores']

    log = next((tmp_path / 'work').glob('*/[0-9]*.log')).read_text()
    assert 'Distributed training: True' in log and f'GPU number: {world}' in log
    assert sum(len(re.findall(rf'Iter\(train\) \[{ITERATIONS}/{ITERATIONS}\]', text)) for _, text in printed) == 1

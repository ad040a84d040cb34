"""Two runs with the same seed are bitwise equal on a CPU: a training, and one step of every family's classifier."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

import mmfreq
from mmfreq.engine.launch import train
from mmfreq.testing.toy_segmentation import toy_segmentation_config, toy_segmentor, write_toy_config
from tests.numerics.strategies import MICRO, noise

ITERS = 6


def random_config(path, data_root, workers):
    """The toy config with random augmentations in the pipeline, and drop path and dropout in the model."""
    loader = toy_segmentation_config(data_root)['train_dataloader']
    load, annotations, pack = loader['dataset']['pipeline']
    loader['dataset']['pipeline'] = [
        *(load, annotations),
        {'type': 'RandomResize', 'scale': (64, 64), 'ratio_range': (0.5, 2.0), 'keep_ratio': True},
        {'type': 'RandomCrop', 'crop_size': (48, 48), 'cat_max_ratio': 0.75},
        {'type': 'RandomFlip', 'prob': 0.5},
        {'type': 'PhotoMetricDistortion'},
        pack,
    ]
    loader['num_workers'] = workers
    model = toy_segmentor()
    model['backbone']['drop_path_rate'] = 0.3
    model['decode_head']['dropout_ratio'] = 0.1
    return write_toy_config(path, data_root, max_iters=ITERS, model=model, train_dataloader=loader)


def trained(config, work_dir, seed):
    """The logged losses of all iterations, and the last weights."""
    # mmengine names a run after its second, and runs of one name share the history of which it logs the mean
    train(config, work_dir=work_dir, seed=seed, cfg_options={'experiment_name': work_dir.name})
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == ITERS
    return losses, torch.load(work_dir / f'iter_{ITERS}.pth', weights_only=True)['state_dict']


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_trainings_with_the_same_seed_are_equal(toy_root, tmp_path, workers):
    config = random_config(tmp_path / 'toy.py', toy_root, workers)
    (losses, weights), (again, same) = (trained(config, tmp_path / name, seed=5) for name in ('one', 'two'))
    assert losses == again
    assert set(weights) == set(same) and all(torch.equal(weights[name], same[name]) for name in weights)
    if workers == 0:  # another seed gives other losses
        assert trained(config, tmp_path / 'three', seed=6)[0] != losses


def one_step(arch, seed):
    """Loss of a training step of a classifier, then its logits in eval mode and its weights."""
    torch.manual_seed(seed)
    model = mmfreq.build_classifier(arch, num_classes=5, drop_path_rate=0.3).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss = cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.randint(5, (4,)))
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        logits = model.eval()(noise(2, 3, 64, 64))
    return [loss.detach(), logits, *model.state_dict().values()]


@pytest.mark.parametrize('arch', [arch for arch in MICRO if 'cnn' not in arch])
def test_steps_with_the_same_seed_are_equal(arch):
    first, second, other = (one_step(arch, seed) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[0], other[0])

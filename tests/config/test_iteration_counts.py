"""Multiplied counts of iterations: the same learning rate at every optimizer step, the same averages, the same validations."""

import copy
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner.utils import calc_dynamic_intervals

from mmfreq.config.iteration_counts import DURATIONS, Clock, rescale_counts
from mmfreq.errors import UserError

BASE = 0.02
EXACT = {
    'warm-up and linear decay together': [
        dict(type='LinearLR', start_factor=1e-6, begin=0, end=16, by_epoch=False),
        dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=61, by_epoch=False),
    ],
    'warm-up, then poly to an eta_min': [
        dict(type='LinearLR', start_factor=0.1, end_factor=0.9, begin=0, end=10, by_epoch=False),
        dict(type='PolyLR', power=0.9, eta_min=1e-4, begin=10, end=60, by_epoch=False),
    ],
    'warm-up, then cosine': [
        dict(type='LinearLR', start_factor=0.1, begin=0, end=11, by_epoch=False),
        dict(type='CosineAnnealingLR', eta_min=1e-4, begin=10, end=60, by_epoch=False),
    ],
    'cosine that ends with the run': [dict(type='CosineAnnealingLR', eta_min=1e-4, begin=5, by_epoch=False)],
    'cosine of a stated length, cut off': [dict(type='CosineAnnealingLR', T_max=50, eta_min=1e-4, end=31, by_epoch=False)],
    'constant, then exponential': [
        dict(type='ConstantLR', factor=0.3, begin=2, end=12, by_epoch=False),
        dict(type='ExponentialLR', gamma=0.9, begin=20, end=50, by_epoch=False),
    ],
    'steps': [dict(type='StepLR', step_size=7, gamma=0.5, begin=3, end=40, by_epoch=False)],
    'milestones': [dict(type='MultiStepLR', milestones=[20, 45], gamma=0.1, begin=1, end=60, by_epoch=False)],
    'restarts': [
        dict(type='CosineRestartLR', periods=[20, 40], restart_weights=[1, 0.5], eta_min=1e-4, end=60, by_epoch=False),
    ],
    'one that never ends': [dict(type='StepLR', step_size=20, gamma=0.5, end=int(1e9), by_epoch=False)],
    'by epochs': [dict(type='MultiStepLR', milestones=[3, 5], gamma=0.1, end=6)],
}
NEAR = {
    'quadratic warm-up': [dict(type='mmdet.QuadraticWarmupLR', begin=0, end=20, by_epoch=False)],
    'one cycle': [dict(type='OneCycleLR', eta_max=BASE, total_steps=60, pct_start=0.3, by_epoch=False)],
    'a cosine by epochs, of iterations': [dict(type='CosineAnnealingLR', eta_min=1e-4, end=6, convert_to_iter_based=True)],
    'an eta_min under a warm-up': [
        dict(type='LinearLR', start_factor=0.1, begin=0, end=16, by_epoch=False),
        dict(type='PolyLR', power=0.9, eta_min=1e-3, begin=0, end=61, by_epoch=False),
    ],
}
STEPS, EPOCH = 60, 10  # of the optimizer, and of them in an epoch


def rates(schedulers, every, max_iters, epoch_length, lr=BASE):
    """The learning rates of mmengine's schedulers at each optimizer step, which is in the last of `every` iterations."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    built = []
    for fields in copy.deepcopy(schedulers):
        cls = PARAM_SCHEDULERS.get(fields.pop('type'))
        fields.pop('_scope_', None)
        by_epoch = fields.get('by_epoch', True)
        fields.setdefault('end', max_iters // epoch_length if by_epoch else max_iters)
        build = partial(cls.build_iter_from_epoch, epoch_length=epoch_length) if fields.pop('convert_to_iter_based', 0) else cls
        built.append(build(optimizer=optimizer, **fields))
    for done in range(1, max_iters + 1):
        if done % every == 0:
            yield optimizer.param_groups[0]['lr']
            optimizer.step()
        for scheduler in built:
            if not scheduler.by_epoch or done % epoch_length == 0:
                scheduler.step()


def config(schedulers, every=1):
    loop = dict(type='IterBasedTrainLoop', max_iters=STEPS * every, val_interval=10)
    return dict(train_cfg=loop, train_dataloader={}, param_scheduler=copy.deepcopy(schedulers))


def rates_before_and_after(schedulers, before, after):
    cfg = config(schedulers, before)
    rescale_counts(cfg, Clock(Fraction(after, before), accumulates=True))
    assert cfg['train_cfg']['max_iters'] == STEPS * after
    return (
        torch.tensor(list(rates(each, every, STEPS * every, EPOCH * every)), dtype=torch.float64)
        for each, every in ((schedulers, before), (cfg['param_scheduler'], after))
    )


@pytest.mark.parametrize(('before', 'after'), [(1, 2), (1, 4), (1, 7), (2, 4), (2, 6)])
@pytest.mark.parametrize('name', EXACT)
def test_every_step_keeps_its_learning_rate(name, before, after):
    was, now = rates_before_and_after(EXACT[name], before, after)
    assert len(was) == len(now) == STEPS and len(set(was.tolist())) > 1
    torch.testing.assert_close(now, was, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize('name', NEAR)
def test_some_schedulers_are_at_most_a_step_off(name):
    was, now = rates_before_and_after(NEAR[name], 1, 4)
    largest_change = (was[1:] - was[:-1]).abs().max()
    assert 0 < (now - was).abs().max() <= largest_change


def test_multiplying_only_the_ends_is_noticed():
    """The test above notices it: the warm-up would be three quarters of a step ahead."""
    was = EXACT['warm-up and linear decay together']
    naive = [{**scheduler, 'end': 4 * scheduler['end']} for scheduler in was]
    a, b = (torch.tensor(list(rates(*each))) for each in ((was, 1, STEPS, EPOCH), (naive, 4, 4 * STEPS, 4 * EPOCH)))
    assert (a - b).abs().max() > 0.01 * BASE


def test_all_supported_schedulers_are_tested():
    tested = {
        each['type'].removeprefix('mmdet.').removesuffix('LR') for group in (EXACT, NEAR) for name in group for each in group[name]
    }
    assert set(DURATIONS) - tested == {'PolyRatio'}  # mmseg's PolyLR with another eta_min


@pytest.mark.parametrize('ratio', [Fraction(2), Fraction(8, 3)])
def test_a_scaled_schedule_has_the_same_learning_rate_at_the_same_share_of_the_run(ratio):
    cfg = config(EXACT['warm-up and linear decay together'])
    was = list(rates(cfg['param_scheduler'], 1, STEPS, EPOCH))
    rescale_counts(cfg, Clock(ratio, accumulates=False))
    assert cfg['param_scheduler'][1]['end'] == 60 * ratio + 1 and cfg['train_cfg']['max_iters'] == 60 * ratio
    now = list(rates(cfg['param_scheduler'], 1, int(60 * ratio), EPOCH))
    for step in range(0, STEPS, 3):
        assert now[int(step * ratio)] == pytest.approx(was[step], rel=1e-9)


@pytest.mark.parametrize(('before', 'after'), [(1, 4), (2, 4)])
@pytest.mark.parametrize(
    'hook',
    [
        dict(momentum=0.1),
        dict(momentum=0.1, begin_iter=6),
        dict(momentum=0.1, interval=2),
        dict(ema_type='MomentumAnnealingEMA', momentum=0.01, gamma=5),
        dict(ema_type='StochasticWeightAverage'),
    ],
    ids=str,
)
def test_averages_are_updated_after_the_same_steps(hook, before, after):
    hook = {'type': 'EMAHook', **hook, 'interval': hook.get('interval', 1) * before}
    cfg = {**config([], before), 'custom_hooks': [dict(hook)]}
    assert rescale_counts(cfg, Clock(Fraction(after, before), accumulates=True)) == []
    was, now = averages(hook, before), averages(cfg['custom_hooks'][0], after)
    assert len(was) == 20 and was[0] != was[-1]
    torch.testing.assert_close(torch.tensor(now), torch.tensor(was))


def averages(hook, every):
    """The averaged weight after each of 20 optimizer steps, after all calls of the hook for the step."""
    hook = EMAHook(**{key: value for key, value in hook.items() if key != 'type'})
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0)
    runner = SimpleNamespace(model=model, iter=0, epoch=0, max_iters=20 * every)
    hook.before_run(runner)
    hook.before_train(runner)
    seen = []
    for iteration in range(20 * every):
        runner.iter = iteration
        if (iteration + 1) % every == 0:
            step = (iteration + 1) // every
            model.weight.data.fill_(step**2)
        hook.after_train_iter(runner, iteration)
        if (iteration + 1) % every == 0:
            seen.append(hook.ema_model.module.weight.item())
    return seen


def test_validation_runs_after_the_same_steps():
    """mmdet validates at the end by another interval from a milestone on."""

    def validations(loop):
        milestones, intervals = calc_dynamic_intervals(loop['val_interval'], loop['dynamic_intervals'])
        interval = {i: [v for m, v in zip(milestones, intervals) if m <= i + 1][-1] for i in range(1, loop['max_iters'] + 1)}
        return [i for i in interval if i >= loop['val_begin'] and (i % interval[i] == 0 or i == loop['max_iters'])]

    loop = dict(type='IterBasedTrainLoop', max_iters=73, val_begin=10, val_interval=5, dynamic_intervals=[(71, 73)])
    cfg = dict(train_cfg=dict(loop), train_dataloader={})
    rescale_counts(cfg, Clock(Fraction(4), accumulates=True))
    assert validations(loop)[-2:] == [65, 73]  # iteration 70 is already under the second interval
    assert validations(cfg['train_cfg']) == [4 * i for i in validations(loop)]


def test_epochs_and_log_intervals_stay_and_unknown_counts_give_a_note():
    hooks = dict(
        logger=dict(type='LoggerHook', interval=50),
        checkpoint=dict(type='CheckpointHook', interval=1),
        visualization=dict(type='DetVisualizationHook', interval=50),
        timer=None,
    )
    loop = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1, val_begin=3)
    custom = [dict(type='DenseCLHook', start_iters=1000), dict(type='SyncBuffersHook')]
    loader = dict(num_batch_per_epoch=100)
    cfg = dict(train_cfg=loop, train_dataloader=loader, default_hooks=hooks, custom_hooks=custom, param_scheduler=None)
    was = copy.deepcopy(cfg)
    notes = rescale_counts(cfg, Clock(Fraction(4), accumulates=True))
    assert notes == ['DenseCLHook.start_iters was not changed: multiply it by 4 if it counts training iterations.']
    assert cfg == {**was, 'train_dataloader': dict(num_batch_per_epoch=400)}


def test_checkpoints_by_iterations_keep_their_frequency():
    hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=100, save_begin=200, max_keep_ckpts=3))
    cfg = {**config([]), 'default_hooks': hooks, 'custom_hooks': [dict(type='CheckpointHook', by_epoch=False, interval=-1)]}
    rescale_counts(cfg, Clock(Fraction(3), accumulates=True))
    wanted = dict(type='CheckpointHook', by_epoch=False, interval=300, save_begin=600, max_keep_ckpts=3)
    assert cfg['default_hooks']['checkpoint'] == wanted and cfg['custom_hooks'][0]['interval'] == -1


def test_default_validation_interval_is_multiplied():
    cfg = dict(train_cfg=dict(by_epoch=False, max_iters=5000), train_dataloader={})
    rescale_counts(cfg, Clock(Fraction(2), accumulates=True))
    assert cfg['train_cfg'] == dict(by_epoch=False, max_iters=10000, val_interval=2000)


def test_an_unsupported_scheduler_is_refused_only_if_it_counts_iterations():
    clock = Clock(Fraction(2), accumulates=True)
    rescale_counts(config([dict(type='WavyLR', by_epoch=True)]), clock)
    with pytest.raises(UserError, match=r"'WavyLR' .* Linear, .*by_epoch=True"):
        rescale_counts(config([dict(type='WavyLR', by_epoch=False)]), clock)

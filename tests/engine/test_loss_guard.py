"""Losses that are not finite are logged, many in a row stop the run, and the hook adds no GPU synchronization."""

import logging
import re
from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub

from mmfreq.engine import LossGuardHook
from mmfreq.engine.hooks import LossError
from mmfreq.engine.launch import train
from mmfreq.errors import UserError

NAN, INF = float('nan'), float('inf')


class Untouchable:
    """A tensor on a GPU that must not be synchronized."""

    def __float__(self):
        raise AssertionError('the hook reads a tensor that is already logged')

    __bool__ = item = cpu = tolist = __float__


def run(hook, losses, **wrapper):
    """Call the hook with total losses, one for each iteration; a total has two terms."""
    rates = {'lr': [1e-3, 5e-4]}
    runner = SimpleNamespace(
        iter=0,
        message_hub=MessageHub('loss_guard'),
        optim_wrapper=SimpleNamespace(get_lr=lambda: rates, **wrapper),
    )
    outputs = {name: Untouchable() for name in ('loss', 'decode.loss_ce', 'aux.loss_ce', 'decode.acc_seg')}
    for loss in losses:
        values = {'loss': loss, 'decode.loss_ce': loss, 'aux.loss_ce': 0.5, 'decode.acc_seg': NAN}
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        hook.after_train_iter(runner, runner.iter, None, outputs)
        runner.iter += 1
    hook.after_train(runner)


@pytest.fixture
def warnings(monkeypatch):
    """(level, message) of each warning."""
    lines = []
    monkeypatch.setattr('mmfreq.engine.hooks.print_log', lambda text, logger, level: lines.append((level, text)))
    return lines


def test_finite_losses_are_not_reported(warnings):
    run(LossGuardHook(1), [1.0, 1e30, -5.0])  # the NaN accuracy is no loss
    assert not warnings


def test_single_bad_losses_are_counted(warnings):
    run(LossGuardHook(2), [1.0, INF, 1.0, NAN, 2.0])
    assert [level for level, _ in warnings] == [logging.WARNING] * 2
    (_, first), (_, second) = warnings
    assert re.search(r'iteration 2\b.*decode\.loss_ce = inf.*\b0\.001\b.*\b2 groups.*\b1\b', first)
    assert re.search(r'iteration 4\b.*decode\.loss_ce = nan.*\b2\b', second)


def test_many_bad_losses_in_a_row_stop_the_run(warnings):
    with pytest.raises(LossError) as error:
        run(LossGuardHook(3), [1.0, NAN, 1.0, 1.0, INF, NAN, NAN, 1.0], clip_grad_kwargs=None)
    text = str(error.value)
    assert re.search(r'\b3 iterations.*\b5 to 7\b.*decode\.loss_ce = nan.*\b0\.001\b.*\b4\b', text, re.DOTALL)
    assert 'optim_wrapper.clip_grad.max_norm' in text and 'iteration 5 on' in text
    assert 'bfloat16' not in text
    assert len(warnings) == 2


def test_fewer_than_patience_do_not_stop_the_run(warnings):
    run(LossGuardHook(3), [NAN, NAN, 1.0, NAN, NAN, 1.0])
    assert len(warnings) == 2


def test_advice_depends_on_the_run(warnings):
    scaler = SimpleNamespace(get_scale=lambda: 2.0**-20)
    with pytest.raises(LossError) as error:
        run(LossGuardHook(1), [NAN], loss_scaler=scaler, cast_dtype=None, clip_grad_kwargs={'max_norm': 1})
    assert 'dtype=bfloat16' in str(error.value) and 'loss scale 9.53674e-07' in str(error.value)
    assert 'clip_grad' not in str(error.value)


def test_warning_if_the_run_ends_on_a_bad_loss(warnings):
    run(LossGuardHook(50), [1.0, NAN, NAN])
    assert len(warnings) == 2 and 'iteration 2' in warnings[-1][1]


def test_patience_must_be_positive():
    with pytest.raises(UserError, match=r'\b1\b.*\b0\b'):
        LossGuardHook(0)


@pytest.mark.slow
def test_diverging_training_is_stopped_before_its_checkpoint(toy_config, tmp_path):
    options = {
        'train_cfg.max_iters': 8,
        'train_cfg.val_interval': 8,
        'default_hooks.checkpoint.interval': 4,
        'optim_wrapper.optimizer.lr': 1e30,
        'custom_hooks': [{'type': 'mmfreq.LossGuardHook', 'patience': 3}],
    }
    with pytest.raises(LossError, match=r'(?s)2 to 4\b.*decode\.loss_ce = nan.*1e\+30.*optim_wrapper'):
        train(toy_config, work_dir=tmp_path / 'work', cfg_options=options)
    assert not list((tmp_path / 'work').glob('*.pth'))


@pytest.mark.slow
def test_every_training_has_the_hook(toy_config, tmp_path):
    runner = train(toy_config, work_dir=tmp_path / 'work', cfg_options={'train_cfg.max_iters': 1, 'train_cfg.val_interval': 1})
    assert [hook.patience for hook in runner.hooks if isinstance(hook, LossGuardHook)] == [50]

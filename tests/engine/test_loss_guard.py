"""A loss that is not finite is told, and many in a row end the run; nothing is waited for that was not waited for anyway."""

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
    """A tensor on a GPU that nobody may wait for."""

    def __float__(self):
        raise AssertionError('the hook reads a tensor that was logged already')

    __bool__ = item = cpu = tolist = __float__


def run(hook, losses, **wrapper):
    """Feed a hook with total losses, one an iteration; each total is the sum of two terms."""
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
def told(monkeypatch):
    """The warnings of the hook, in a list."""
    lines = []
    monkeypatch.setattr('mmfreq.engine.hooks.print_log', lambda text, logger, level: lines.append((level, text)))
    return lines


def test_a_finite_loss_is_nobodys_business(told):
    run(LossGuardHook(1), [1.0, 1e30, -5.0])  # an accuracy of nan is no loss
    assert not told


def test_single_ones_are_counted_and_pass(told):
    run(LossGuardHook(2), [1.0, INF, 1.0, NAN, 2.0])
    assert [level for level, _ in told] == [logging.WARNING] * 2
    (_, first), (_, second) = told
    assert re.search(r'iteration 2\b.*decode\.loss_ce = inf.*\b0\.001\b.*\b2 groups.*\b1\b', first)
    assert re.search(r'iteration 4\b.*decode\.loss_ce = nan.*\b2\b', second)


def test_many_in_a_row_end_the_run(told):
    with pytest.raises(LossError) as error:
        run(LossGuardHook(3), [1.0, NAN, 1.0, 1.0, INF, NAN, NAN, 1.0], clip_grad_kwargs=None)
    text = str(error.value)
    assert re.search(r'\b3 iterations.*\b5 to 7\b.*decode\.loss_ce = nan.*\b0\.001\b.*\b4\b', text, re.DOTALL)
    assert 'optim_wrapper.clip_grad.max_norm' in text and 'iteration 5 on' in text
    assert 'bfloat16' not in text
    assert len(told) == 2


def test_two_in_a_row_are_not_three(told):
    run(LossGuardHook(3), [NAN, NAN, 1.0, NAN, NAN, 1.0])
    assert len(told) == 2


def test_the_advice_fits_the_run(told):
    scaler = SimpleNamespace(get_scale=lambda: 2.0**-20)
    with pytest.raises(LossError) as error:
        run(LossGuardHook(1), [NAN], loss_scaler=scaler, cast_dtype=None, clip_grad_kwargs={'max_norm': 1})
    assert 'dtype=bfloat16' in str(error.value) and 'loss scale 9.53674e-07' in str(error.value)
    assert 'clip_grad' not in str(error.value)


def test_a_run_that_ends_so_is_told(told):
    run(LossGuardHook(50), [1.0, NAN, NAN])
    assert len(told) == 2 and 'iteration 2' in told[-1][1]


def test_patience_is_a_number_of_iterations():
    with pytest.raises(UserError, match=r'\b1\b.*\b0\b'):
        LossGuardHook(0)


@pytest.mark.slow
def test_a_training_that_blows_up_is_stopped_before_its_checkpoint(toy_config, tmp_path):
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
def test_every_training_has_the_guard(toy_config, tmp_path):
    runner = train(toy_config, work_dir=tmp_path / 'work', cfg_options={'train_cfg.max_iters': 1, 'train_cfg.val_interval': 1})
    assert [hook.patience for hook in runner.hooks if isinstance(hook, LossGuardHook)] == [50]

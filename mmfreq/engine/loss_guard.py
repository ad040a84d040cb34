"""A hook that stops a run whose loss is not a number any more, and says what was seen and what to try."""

import logging
import math

from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmfreq.engine.errors import UserError
from mmfreq.registry import HOOKS


class LossError(UserError):
    """The loss has been NaN or infinite for many iterations in a row: the run is lost."""


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Warn of a loss that is NaN or infinite, and stop the run after many of them in a row.

    One by itself may pass: under mixed precision with dynamic loss scaling such a step is left out. Once weights are NaN nothing
    comes back, and mmengine would train on to the end. mmdet's `CheckInvalidLossHook` stops at the first one it sees, looks every
    50th time, and names nothing.

    What mmengine has logged for the iteration is read, so that a GPU is not waited for once more.

    Args:
        patience: iterations in a row after which the run is stopped.

    Raises:
        LossError: naming iteration, terms, learning rate, and what to try.
    """

    priority = 'HIGH'  # after RuntimeInfoHook, which logs; before a checkpoint is written

    def __init__(self, patience=50):
        if patience < 1:
            raise UserError(f'patience of LossGuardHook is a number of iterations, at least 1, got {patience}')
        self.patience = patience
        self.first = None  # iteration that the row began with
        self.total = 0  # in this process

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        bad = broken_terms(runner, outputs)
        if not bad:
            self.first = None
            return
        iteration = runner.iter + 1  # as the log counts
        self.total += 1
        if self.first is None:
            self.first = iteration
            print_log(
                f'The loss of iteration {iteration} is not finite ({bad}; learning rate {learning_rate(runner)}), for the '
                f'{self.total}. time in this run, which stops after {self.patience} in a row.',
                logger='current',
                level=logging.WARNING,
            )
        if iteration - self.first + 1 >= self.patience:
            raise LossError(self.message(runner, iteration, bad))

    def after_train(self, runner):
        if self.first is not None:
            print_log(
                f'The run ended with a loss that was not finite since iteration {self.first}: {later_checkpoints(self.first)}.',
                logger='current',
                level=logging.WARNING,
            )

    def message(self, runner, iteration, bad):
        wrapper = runner.optim_wrapper
        scaler = getattr(wrapper, 'loss_scaler', None)
        advice = []
        if scaler is not None and str(getattr(wrapper, 'cast_dtype', None)) != 'torch.bfloat16':
            advice.append('--cfg-options optim_wrapper.dtype=bfloat16, or no --amp (float16 ends at 65504)')
        if not getattr(wrapper, 'clip_grad_kwargs', None):
            advice.append('--cfg-options optim_wrapper.clip_grad.max_norm=1.0')
        advice.append('a lower optim_wrapper.optimizer.lr, or a longer warm-up in param_scheduler')
        advice.append('a look at the images and labels of that iteration: NaN in them ends here too')
        scale = '' if scaler is None else f', loss scale {scaler.get_scale():g}'
        return '\n'.join(
            [
                f'the loss has not been finite for {iteration - self.first + 1} iterations in a row, from {self.first} to '
                f'{iteration}: {bad}; learning rate {learning_rate(runner)}{scale}; {self.total} times in this run.',
                f'{later_checkpoints(self.first)}. What to try:',
                *(f'  {line}' for line in advice),
            ]
        )


def broken_terms(runner, outputs):
    """The terms of the loss that are not finite in this iteration, as `name = value, ...`; empty if the total is finite."""
    values = {name: logged(runner, name, value) for name, value in (outputs or {}).items() if 'loss' in name}
    if all(math.isfinite(value) for value in values.values()):
        return ''
    parts = {name: value for name, value in values.items() if name != 'loss'} or values
    bad = {name: value for name, value in parts.items() if not math.isfinite(value)} or values
    return ', '.join(f'{name} = {value:g}' for name, value in bad.items())


def logged(runner, name, value):
    """A term as a number, as RuntimeInfoHook has logged it; from the tensor itself where a config has no such hook."""
    scalars = runner.message_hub.log_scalars
    key = f'train/{name}'
    return scalars[key].current() if key in scalars else float(value)


def learning_rate(runner):
    """Of the optimizer; the largest where its groups differ."""
    rates = [rate for each in runner.optim_wrapper.get_lr().values() for rate in each]
    return f'{max(rates):g}' + (f' (the largest of {len(rates)} groups)' if len(set(rates)) > 1 else '')


def later_checkpoints(first):
    return (
        f'Checkpoints from iteration {first} on hold the weights that led there: go on from an earlier one, if any (--resume FILE)'
    )

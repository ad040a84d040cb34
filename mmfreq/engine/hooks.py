"""Hooks that guard a run, and the one that tests an optimized model; `mmfreq.engine.launch` adds them to every config.

| hook | when it runs | what it does |
|---|---|---|
| `InputGuardHook` | before the run; before each iteration | stops on an image, label map or box that the model cannot take |
| `CheckpointGuardHook` | after a checkpoint is loaded | stops on a checkpoint of another model |
| `LossGuardHook` | after each training iteration | stops after 50 iterations in a row with a NaN or infinite loss |
| `OptimizeHook` | before and after a test | tests `mmfreq.optimize(model)` |
| `resume.CheckpointHook` | after training iterations or epochs | saves whole files only; stops when the disk is full |
| `resume.StopInValidationHook` | after each validation iteration | on SIGTERM or SIGUSR1, saves and stops the run |
"""

import logging
import math

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper

from mmfreq.errors import CheckpointMismatchError, UserError
from mmfreq.preflight.samples import (
    bare_model,
    check_boxes,
    check_channels,
    check_labels,
    expected_channels,
    flatten_batch,
    guard_samples,
    sample_name,
)
from mmfreq.registry import HOOKS
from mmfreq.speed.optimizing import has_backbone, optimize
from mmfreq.weights.load import load_checked


@HOOKS.register_module()
class InputGuardHook(Hook):
    """Check images, label maps and boxes before each iteration, and guard the pipelines of the run's datasets.

    The hook checks the loader's output, before the data preprocessor. A failing sample is reported with its files by
    `mmfreq.preflight.samples`, in the process that loads it. Boxes must be finite; boxes without an area are reported once.
    Class labels of boxes and of images are not checked, nor are label maps if the head has no `num_classes`.

    Raises:
        InputError: with the file, the value and the fix.
    """

    priority = 'VERY_HIGH'
    reported_empty_boxes = False

    def before_run(self, runner):
        guard_samples(runner)
        model = bare_model(runner.model)
        self.channels = expected_channels(model)
        heads = getattr(model, 'decode_head', None)
        head = heads[-1] if isinstance(heads, torch.nn.ModuleList) else heads
        self.num_classes = getattr(head, 'num_classes', None)
        self.ignore_index = getattr(head, 'ignore_index', 255)
        if self.num_classes == 1 and getattr(head, 'out_channels', None) == 1:
            self.num_classes = 2  # one sigmoid map: background and the class

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train'):
        if not isinstance(data_batch, dict):
            return
        samples = flatten_batch(data_batch.get('data_samples'))
        for index, image in enumerate(flatten_batch(data_batch.get('inputs'))):
            if torch.is_tensor(image) and image.ndim >= 3:
                check_channels(image, self.channels, sample_name(samples, index, 'img_path'))
        for index, sample in enumerate(samples):
            if mode == 'train':
                self._check_boxes(sample, sample_name(samples, index, 'img_path'))
            labels = getattr(sample, 'gt_sem_seg', None)
            if labels is not None and self.num_classes is not None:
                check_labels(
                    labels.data, self.num_classes, self.ignore_index, sample_name(samples, index, 'seg_map_path', 'img_path')
                )

    def _check_boxes(self, sample, name):
        boxes = getattr(getattr(sample, 'gt_instances', None), 'bboxes', None)
        boxes = getattr(boxes, 'tensor', boxes)  # mmdet wraps boxes in classes
        if not torch.is_tensor(boxes) or boxes.ndim != 2 or boxes.shape[1] != 4:
            return
        empty = check_boxes(boxes, name)
        if empty and not self.reported_empty_boxes:
            self.reported_empty_boxes = True
            _warn(
                f'{name} has {empty} boxes without an area after its pipeline, which can make losses NaN (reported once). After '
                "RandomCrop(recompute_bbox=True) add dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)) to the pipeline."
            )


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Compare a loaded checkpoint with the model; mmengine loads with `strict=False` and only warns.

    | of the model | in testing and resuming | before training |
    |---|---|---|
    | no tensor is filled, or one of the backbone is not | error | error |
    | another tensor is not filled | error | warning (a head for other classes) |
    | a value is NaN or infinite | error | warning |

    Tensors that the model does not have are left to mmengine's warning.

    Raises:
        CheckpointMismatchError: with the file and the tensors.
    """

    priority = 'VERY_HIGH'  # before EMAHook copies the weights

    def after_load_checkpoint(self, runner, checkpoint):
        model = bare_model(runner.model)
        training = is_training_run(runner)
        adapted = load_checked(model, checkpoint, runner._load_from, runner._resume or not training, training)
        meta = checkpoint.get('meta')
        if runner._resume and not (isinstance(meta, dict) and 'iter' in meta):  # a converted file has another meta
            raise CheckpointMismatchError(
                f'{runner._load_from} holds weights, but no iteration or optimizer, so it cannot be resumed. '
                f'Remove --resume, and start from its weights with --cfg-options load_from={runner._load_from}.'
            )
        checkpoint['state_dict'] = adapted


class LossError(UserError):
    """The loss has been NaN or infinite for many iterations in a row."""


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Warn of a NaN or infinite loss, and stop the run after many of them in a row.

    A single one is normal under mixed precision: dynamic loss scaling skips the step. Once weights are NaN the run is lost, but
    mmengine trains on to the end. mmdet's `CheckInvalidLossHook` stops at the first one that it sees, but checks only every
    50th iteration and does not name the term.

    The hook reads the values that mmengine has logged for the iteration, so that it adds no GPU synchronization.

    Args:
        patience: iterations in a row after which the run is stopped.

    Raises:
        LossError: with the iterations, terms, learning rate, and what to try.
    """

    priority = 'HIGH'  # after RuntimeInfoHook, which logs; before a checkpoint is written

    def __init__(self, patience=50):
        if patience < 1:
            raise UserError(f'patience of LossGuardHook must be at least 1 iteration; got {patience}.')
        self.patience = patience
        self.first = None  # iteration in which the current row of bad losses began
        self.total = 0  # bad losses in this process

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        bad = nonfinite_terms(runner, outputs)
        if not bad:
            self.first = None
            return
        iteration = runner.iter + 1  # as the log counts
        self.total += 1
        if self.first is None:
            self.first = iteration
            _warn(
                f'The loss of iteration {iteration} is not finite: {bad}; learning rate {learning_rate(runner)} '
                f'(occurrence {self.total} in this run). The run stops after {self.patience} in a row.'
            )
        if iteration - self.first + 1 >= self.patience:
            raise LossError(self._error_message(runner, iteration, bad))

    def after_train(self, runner):
        if self.first is not None:
            _warn(f'The run ended with a loss that was not finite since iteration {self.first}. {earlier_checkpoint(self.first)}')

    def _error_message(self, runner, iteration, bad):
        wrapper = runner.optim_wrapper
        scaler = getattr(wrapper, 'loss_scaler', None)
        advice = []
        if scaler is not None and str(getattr(wrapper, 'cast_dtype', None)) != 'torch.bfloat16':
            advice.append('--cfg-options optim_wrapper.dtype=bfloat16, or no --amp (float16 ends at 65504)')
        if not getattr(wrapper, 'clip_grad_kwargs', None):
            advice.append('--cfg-options optim_wrapper.clip_grad.max_norm=1.0')
        advice.append('a lower optim_wrapper.optimizer.lr, or a longer warm-up in param_scheduler')
        advice.append('check the images and labels of that iteration for NaN')
        scale = '' if scaler is None else f', loss scale {scaler.get_scale():g}'
        return '\n'.join(
            [
                f'The loss has not been finite for {iteration - self.first + 1} iterations in a row, from {self.first} to '
                f'{iteration}: {bad}; learning rate {learning_rate(runner)}{scale}; {self.total} times in this run.',
                f'{earlier_checkpoint(self.first)} What to try:',
                *(f'  {line}' for line in advice),
            ]
        )


@HOOKS.register_module()
class OptimizeHook(Hook):
    """Test `mmfreq.optimize(model)` in place of the model; the predictions agree within rounding.

    `tools/test.py` adds this hook unless `--plain` is given. A model without a backbone of mmfreq is tested as it is.
    """

    priority = 'LOWEST'  # after hooks that change the weights before a test, such as EMAHook

    def __init__(self):
        self.original = None  # the runner's model, while the optimized one is in its place

    def before_test_epoch(self, runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if has_backbone(model):
            self.original = model
            set_model(runner, optimize(model))

    def after_test_epoch(self, runner, metrics=None):
        if self.original is not None:
            set_model(runner, self.original)
            self.original = None


def is_training_run(runner):
    """Whether the runner has built its training loop."""
    return runner._train_loop is not None and not isinstance(runner._train_loop, dict)


def nonfinite_terms(runner, outputs):
    """The terms of the loss that are not finite in this iteration, as `name = value, ...`; empty if the total is finite."""
    values = {name: _logged_value(runner, name, value) for name, value in (outputs or {}).items() if 'loss' in name}
    if all(math.isfinite(value) for value in values.values()):
        return ''
    parts = {name: value for name, value in values.items() if name != 'loss'} or values
    bad = {name: value for name, value in parts.items() if not math.isfinite(value)} or values
    return ', '.join(f'{name} = {value:g}' for name, value in bad.items())


def _logged_value(runner, name, value):
    """A term as RuntimeInfoHook has logged it; read from the tensor if a config does not have that hook."""
    scalars = runner.message_hub.log_scalars
    key = f'train/{name}'
    return scalars[key].current() if key in scalars else float(value)


def learning_rate(runner):
    """The optimizer's learning rate as text; the largest one if its groups differ."""
    rates = [rate for each in runner.optim_wrapper.get_lr().values() for rate in each]
    return f'{max(rates):g}' + (f' (the largest of {len(rates)} groups)' if len(set(rates)) > 1 else '')


def earlier_checkpoint(first):
    return f'Checkpoints from iteration {first} on hold the weights that led to it: resume from an earlier one (--resume FILE).'


def set_model(runner, model):
    """Replace the runner's model, inside its wrapper if there is one."""
    if is_model_wrapper(runner.model):
        runner.model.module = model
    else:
        runner.model = model


def _warn(message):
    print_log(message, logger='current', level=logging.WARNING)

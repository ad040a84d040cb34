"""A hook that stops a run whose loss is not a number any more, and says what was seen and what to try."""

import logging
import math

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper

from mmfreq.errors import CheckpointMismatchError, UserError
from mmfreq.preflight.samples import (
    _expected_channels,
    _flat,
    _name,
    bare_model,
    check_boxes,
    check_channels,
    check_labels,
    guard_samples,
)
from mmfreq.registry import HOOKS
from mmfreq.speed.optimizing import holds_backbone, optimize
from mmfreq.weights.load import (
    load_checked,
)


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


# Testing an optimised copy of the model.


@HOOKS.register_module()
class OptimizeHook(Hook):
    """Has the test run on `mmfreq.optimize(model)`; afterwards the runner has its model again.

    A model without a backbone of mmfreq is tested as it is. `tools/test.py` adds this hook, unless `--plain` is given. Predictions
    agree with the model's within rounding.
    """

    priority = 'LOWEST'  # what else is done to the weights before a test, such as EMAHook's exchange, comes first

    def __init__(self):
        self.model = None  # the runner's, while the copy is in its place

    def before_test_epoch(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if holds_backbone(model):
            self.model = model
            exchange(runner, optimize(model))

    def after_test_epoch(self, runner, metrics=None) -> None:
        if self.model is not None:
            exchange(runner, self.model)
            self.model = None


def exchange(runner, model) -> None:
    """Put `model` into the place of the runner's, within its wrapper if there is one."""
    if is_model_wrapper(runner.model):
        runner.model.module = model
    else:
        runner.model = model


# A hook that stops a run whose checkpoint does not fit the model, before the first iteration.
#
# mmengine loads with `strict=False` and only warns, so that a file of another model leaves the network as it was initialised.


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Compare a checkpoint with the model after mmengine read it.

    An error where nothing matches or a tensor of the backbone stays unfilled; where any tensor stays unfilled, an error in
    testing and resuming, and a warning before training (a head for other classes is usual then). Values that are NaN or infinite
    are an error in testing, and a warning before training. Tensors of the file that the model has no place for are left to
    mmengine's warning.
    """

    priority = 'VERY_HIGH'  # before EMAHook copies the weights

    def after_load_checkpoint(self, runner, checkpoint):
        model = bare_model(runner.model)
        training = runner._train_loop is not None and not isinstance(runner._train_loop, dict)
        adapted = load_checked(model, checkpoint, runner._load_from, runner._resume or not training, training)
        meta = checkpoint.get('meta')
        if runner._resume and not (isinstance(meta, dict) and 'iter' in meta):  # a converted file has another meta
            raise CheckpointMismatchError(
                f'{runner._load_from} holds weights and no iteration or optimizer, so it cannot be resumed: leave --resume out '
                f'and start from its weights with --cfg-options load_from={runner._load_from}'
            )
        checkpoint['state_dict'] = adapted


# A hook that stops a run on images or labels that the model was not built for, naming the file.


@HOOKS.register_module()
class InputGuardHook(Hook):
    """Check every picture's channels and every label map's values before each iteration, and how samples are loaded.

    It looks at what the loader gives, before the data preprocessor; `sample_guard` looks at each sample where it is loaded, and
    names the files of one that fails. Boxes must be finite, and those without an extent are told once. Labels of boxes and of
    classification are not looked at; nor are label maps where the model's head states no `num_classes`.
    """

    priority = 'VERY_HIGH'
    told_of_empty_boxes = False

    def before_run(self, runner):
        """Read from the model what it takes, once, and guard the data sets of the run."""
        guard_samples(runner)
        model = bare_model(runner.model)
        self.channels = _expected_channels(model)
        heads = getattr(model, 'decode_head', None)
        heads = list(heads) if isinstance(heads, torch.nn.ModuleList) else [heads]
        self.num_classes = getattr(heads[-1], 'num_classes', None)
        self.ignore_index = getattr(heads[-1], 'ignore_index', 255)
        if self.num_classes == 1 and getattr(heads[-1], 'out_channels', None) == 1:
            self.num_classes = 2  # one sigmoid map: background and the class

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train'):
        if not isinstance(data_batch, dict):
            return
        samples = _flat(data_batch.get('data_samples'))
        for index, image in enumerate(_flat(data_batch.get('inputs'))):
            if torch.is_tensor(image) and image.ndim >= 3:
                check_channels(image, self.channels, _name(samples, index, 'img_path'))
        if mode == 'train':
            self._look_at_boxes(samples)
        if self.num_classes is None:
            return
        for index, sample in enumerate(samples):
            labels = getattr(sample, 'gt_sem_seg', None)
            if labels is not None:
                check_labels(labels.data, self.num_classes, self.ignore_index, _name(samples, index, 'seg_map_path', 'img_path'))

    def _look_at_boxes(self, samples):
        for index, sample in enumerate(samples):
            boxes = getattr(getattr(sample, 'gt_instances', None), 'bboxes', None)
            boxes = getattr(boxes, 'tensor', boxes)  # mmdet has boxes of several kinds
            if not torch.is_tensor(boxes) or boxes.ndim != 2 or boxes.shape[1] != 4:
                continue
            name = _name(samples, index, 'img_path')
            empty = check_boxes(boxes, name)
            if empty and not self.told_of_empty_boxes:
                self.told_of_empty_boxes = True
                print_log(
                    f'{name} has {empty} boxes without an extent after its pipeline, which can make losses NaN. Said once; after '
                    "RandomCrop(recompute_bbox=True) add dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)) to the pipeline.",
                    logger='current',
                    level=logging.WARNING,
                )

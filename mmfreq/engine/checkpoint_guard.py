"""A hook that stops a run whose checkpoint does not fit the model, before the first iteration.

mmengine loads with `strict=False` and only warns, so that a file of another model leaves the network as it was initialised.
"""

import logging
from collections import Counter
from dataclasses import dataclass

from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmfreq.checkpoint.fit import unwrap
from mmfreq.checkpoint.load import adapt_checkpoint, listed, told_not_finite
from mmfreq.checkpoint.rules import describe
from mmfreq.checkpoint.values import broken_values, unusable
from mmfreq.compat.safe_load import CheckpointError
from mmfreq.engine.errors import CheckpointMismatchError
from mmfreq.engine.input_guard import bare_model
from mmfreq.registry import HOOKS


@dataclass
class Fit:
    """How a state dict fits a model: names of the model's tensors by their fate."""

    filled: list
    missing: list
    misshapen: list
    unexpected: list

    @property
    def unfilled(self):
        return [*self.missing, *self.misshapen]


def load_and_compare(model, state_dict):
    """Load what fits, through the model's own load hooks, and tell the fate of every tensor of the model.

    The comparison is the loading itself because a hook may rename or resize what it is given; names alone would not tell.
    """
    missing, unexpected, errors = [], [], []

    def load(module, tensors, prefix):
        module._load_from_state_dict(tensors, prefix, {}, True, missing, unexpected, errors)
        for name, child in module._modules.items():
            if child is not None:
                start = f'{prefix}{name}.'
                load(child, {key: value for key, value in tensors.items() if key.startswith(start)}, start)

    load(model, dict(state_dict), '')
    names = [name for name in model.state_dict() if not name.endswith('num_batches_tracked')]
    missing = [name for name in names if name in set(missing)]
    misshapen = [name for name in names if any(f' {name}:' in error or f'"{name}"' in error for error in errors)]
    unfilled = {*missing, *misshapen}
    return Fit([name for name in names if name not in unfilled], missing, misshapen, unexpected)


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


def load_checked(model, checkpoint, source, strict, training=False):
    """Load a checkpoint, in any published layout, and return its tensors in the model's names.

    Args:
        source: what the messages call it.
        strict: whether the heads must be filled too; otherwise a warning names what is not.
        training: whether NaN and infinite values are worth a warning; otherwise they are an error, as no score would mean anything.

    Raises:
        CheckpointMismatchError: nothing fits, or a tensor that must be filled is not, or its values are of no use; lists which.
    """
    own = model.state_dict()
    meant = broken_values(own)  # masks of minus infinity, for example
    try:
        held = unwrap(checkpoint)
        adapted = adapt_checkpoint(held, model)
    except CheckpointError as error:
        raise CheckpointMismatchError(f'{source}: {error}') from error
    if useless := unusable(adapted, own):
        told = [f'{name} ({why})' for name, why in useless.items()]
        raise CheckpointMismatchError(f'{source} holds {len(told)} tensors of no use to the model: {listed(told)}.')
    fit = load_and_compare(model, adapted)
    backbone = [name for name in fit.unfilled if name.startswith('backbone.')]
    if not fit.filled or backbone or (strict and fit.unfilled):
        raise CheckpointMismatchError(misfit_message(fit, held, source))
    broken = broken_values({name: adapted[name] for name in fit.filled if name in adapted and name not in meant})
    if broken and not training:
        raise CheckpointMismatchError(
            f'{source}: {told_not_finite(broken)}. Give an earlier checkpoint, or download the file again.'
        )
    if broken:
        print_log(f'{source}: {told_not_finite(broken)}.', logger='current', level=logging.WARNING)
    if fit.unfilled:
        print_log(
            f'{source}: {len(fit.unfilled)} tensors outside the backbone are not in it or of another shape there, and start '
            f'from their initialisation: {listed(fit.unfilled)}.',
            logger='current',
            level=logging.WARNING,
        )
    return adapted


def misfit_message(fit, held, source):
    """The message of a misfit: counts, some names of each kind, and what the file seems to hold."""
    total = len(fit.filled) + len(fit.unfilled)
    lines = [f'the checkpoint {source} does not fit the model: it fills {len(fit.filled)} of the {total} tensors.']
    for title, names in (
        ('The model has no values for', fit.missing),
        ('Of another shape in the file', fit.misshapen),
        ('The model has no place for', fit.unexpected),
    ):
        if names:
            lines.append(f'  {title} ({len(names)}): {listed(names)}')
    parts = Counter(name.split('.')[0] for name in held)
    content = ', '.join(f'{part} ({count})' for part, count in parts.most_common(5))
    lines.append(f'  The file holds {len(held)} tensors: {content}; they look like {describe(held)}.')
    lines.append('Give a checkpoint of this model, or the config that the checkpoint was made from.')
    return '\n'.join(lines)

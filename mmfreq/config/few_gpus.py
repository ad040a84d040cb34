"""A config for other GPUs than it was published for: `few_gpus`.

A step of the optimizer sees the images of all GPUs and of all iterations that accumulate their gradients: the total batch. Either
it stays the published one, and more iterations are accumulated, or it changes, and the learning rate is scaled with it.
"""

import ast
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import nn

from mmfreq.config.iteration_counts import Clock, counts_iterations, rescale_counts, schedulers_of
from mmfreq.config.leaf import make_leaf, plain
from mmfreq.config.meta_model import build_model
from mmfreq.config.reading import absolute, read_config, type_name
from mmfreq.errors import UserError

RULES = {'linear': float, 'sqrt': math.sqrt}  # factor of the learning rate, from the ratio of the batches
ACCUMULATING = ('OptimWrapper', 'AmpOptimWrapper', 'ApexOptimWrapper')
RATES = ('eta_min', 'eta_max', 'min_value')  # a scheduler's fields that are learning rates, not ratios of them
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
BATCH_IN_NAME = re.compile(r'(?<![a-z0-9])(\d+)xb(\d+)(?![a-z0-9])')
REMEDY = 'Give the total batch, the images of one optimizer step on all GPUs, with --batch.'


@dataclass(frozen=True)
class Split:
    """A total batch and how GPUs and iterations share it.

    Attributes:
        gpus: None if `images` and `accumulated` do not divide `batch`.
        images: per GPU and iteration.
        accumulated: iterations per step of the optimizer.
        batch: images per step of the optimizer.
    """

    gpus: int | None
    images: int
    accumulated: int
    batch: int

    def __str__(self):
        if self.gpus is None:
            return count(self.batch, 'image')
        text = f'{count(self.gpus, "GPU")} x {count(self.images, "image")}'
        return f'{text} x {self.accumulated} accumulated' if self.accumulated > 1 else text


def count(number, noun):
    """`1 image`, `2 images`."""
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def few_gpus(base, gpus, images=None, rule=None, batch=None, out=None):
    """A config for `gpus` GPUs, as a leaf on the published one.

    By default one step of the optimizer sees the published number of images, accumulated over more iterations. Counts of
    iterations are multiplied, so that every step has the published learning rate; exactly, except that a scheduler with
    `eta_min` other than 0 that runs together with another, or one with `convert_to_iter_based`, can be one step off. Epochs may end
    in the middle of a step.

    With a `rule` one step sees another number of images, and its learning rate is scaled. Counts of iterations are multiplied so
    that as many images are seen; momentum and weight decay are not changed.

    Args:
        base: path of a config, or `mmseg::...`, `mmdet::...`, `mmpretrain::...`.
        images: per GPU and iteration; default the config's.
        rule: None keeps the batch; 'linear' (mmengine's `auto_scale_lr`) or 'sqrt' scales the learning rate by the ratio of the
            batches, or its root.
        batch: total batch that the config is made for, if it does not state it.
        out: path of the leaf, if its `_base_` should be relative to it.

    Returns:
        A `Leaf`.

    Raises:
        UserError: there is no such config; its total batch is not known or cannot be divided so; there is nothing to change; the
            type of its optimizer or of a scheduler is not supported; the name of `out` states other numbers.
    """
    cfg = read_config(base)
    old, new = plain(cfg.to_dict()), plain(cfg.to_dict())
    _check(base, old, gpus, images, rule, batch, out)
    published = published_split(old, batch or published_batch(base, cfg))
    images = images or published.images
    if rule is None:
        here = accumulating_split(published.batch, gpus, images)
        clock = Clock(Fraction(here.accumulated, published.accumulated), accumulates=True)
    else:
        here = Split(gpus, images, published.accumulated, gpus * images * published.accumulated)
        clock = Clock(Fraction(published.batch, here.batch), accumulates=False)
    if rule is not None and here.batch == published.batch:
        raise UserError(f'{here} give the published batch of {count(here.batch, "image")}. Remove --scale-lr.')
    if (here.gpus, here.images, here.accumulated) == (published.gpus, published.images, published.accumulated):
        raise UserError(f'{base} is already for {published}. Use it unchanged.')
    new['train_dataloader']['batch_size'] = images
    if here.accumulated != published.accumulated:
        new['optim_wrapper']['accumulative_counts'] = here.accumulated
    notes = rescale_counts(new, clock) if clock.ratio != 1 else []
    if rule is not None:
        _scale_rates(new, RULES[rule](Fraction(here.batch, published.batch)))
    notes += _state_batch(new, here)
    if clock.ratio.denominator > 1:
        notes.append(f'Counts of iterations times {clock.ratio} are rounded.')
    notes += _mixing_notes(old, images) + batch_norm_notes(cfg, published, here)
    summary = _kept(published, here, clock, new) if rule is None else _scaled(published, here, clock, rule, old, new)
    title = f'{Path(str(base)).stem} on {count(gpus, "GPU")}; written by tools/few_gpus.py.'
    return make_leaf(base, cfg, new, title, notes, summary, out and absolute(out).parent)


def _check(base, cfg, gpus, images, rule, batch, out):
    for name, value in (('GPUS', gpus), ('--images', images), ('--batch', batch)):
        if value is not None and value < 1:
            raise UserError(f'Expected 1 or more for {name}, got {value}.')
    missing = [key for key in ('model', 'train_cfg', 'train_dataloader', 'optim_wrapper') if not cfg.get(key)]
    if missing:
        raise UserError(f'Expected a whole training config, not one of the parts in _base_: {base} has no {", ".join(missing)}.')
    if 'batch_size' not in cfg['train_dataloader']:
        raise UserError(f'Expected the images per GPU in train_dataloader.batch_size, which {base} does not have. Add it.')
    wrapper = cfg['optim_wrapper']
    if 'optimizer' not in wrapper:
        raise UserError(f'Expected a config with one optimizer, but {base} has no optim_wrapper.optimizer.')
    wrapper_type = type_name(wrapper.get('type', 'OptimWrapper'))
    if rule is None and wrapper_type not in ACCUMULATING:
        raise UserError(
            f'Expected an optim_wrapper that accumulates ({", ".join(ACCUMULATING)}), but {base} has type {wrapper_type!r}. '
            'Scale the learning rate instead, with --scale-lr linear.'
        )
    if rule is not None and 'lr' not in wrapper['optimizer']:
        raise UserError(f'Expected a learning rate to scale in optim_wrapper.optimizer.lr, which {base} does not have. Add it.')
    named = out and batch_in_name(out)
    wanted = (gpus, images or cfg['train_dataloader']['batch_size'])
    if named and named != wanted:
        name, found = (f'{each[0]}xb{each[1]}' for each in (wanted, named))
        raise UserError(f'The config is for {name}, but the name {Path(out).name} states {found}. Change the name.')


def published_split(cfg, batch):
    """How a config with a total batch shares it."""
    images, iterations = cfg['train_dataloader']['batch_size'], accumulated(cfg)
    gpus, rest = divmod(batch, images * iterations)
    return Split(None if rest else gpus, images, iterations, batch)


def accumulating_split(batch, gpus, images):
    """A total batch on a number of GPUs, accumulated if it takes more than one iteration.

    Raises:
        UserError: it cannot be divided so.
    """
    iterations, rest = divmod(batch, gpus * images)
    if not rest:
        return Split(gpus, images, iterations, batch)
    divisors = [n for n in range(1, batch + 1) if batch % n == 0]
    if batch % gpus:
        remedy = f'Use a number of GPUs that divides it: {_listed(divisors)}'
    else:
        remedy = f'With {count(gpus, "GPU")}, --images can be {_listed(n for n in divisors if batch // gpus % n == 0)}'
    requested = f'{count(gpus, "GPU")} x {count(images, "image")} = {gpus * images}'
    raise UserError(
        f'Expected a divisor of the total batch of {count(batch, "image")}, got {requested}. {remedy}; or scale the learning rate '
        'instead, with --scale-lr linear.'
    )


def accumulated(cfg):
    """Iterations per step of a config's optimizer."""
    return (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)


def batch_in_name(reference):
    """(GPUs, images per GPU) of `..._8xb2-...`, or None."""
    found = BATCH_IN_NAME.search(str(reference).replace('\\', '/').rsplit('/', 1)[-1].removesuffix('.py'))
    return (int(found[1]), int(found[2])) if found else None


def published_batch(reference, cfg=None):
    """The total batch that a config's learning rate is chosen for, including accumulated iterations.

    It is stated by `auto_scale_lr.base_batch_size`, or by `<gpus>xb<images>` in the name of the file. A file that states neither
    has that of its base, if it inherits from a single one.

    Args:
        cfg: the Config, if it has been read.

    Raises:
        UserError: there is no such config, nothing states the batch, or two statements differ.
    """
    cfg = read_config(reference) if cfg is None else cfg
    stated = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    named = batch_in_name(reference)
    if named:
        _check_name(reference, cfg, named, stated)
        return named[0] * named[1] * accumulated(cfg)
    if stated:
        return stated
    parent = _parent(reference)
    if parent is None:
        raise UserError(
            f'The number of images that the learning rate of {reference} was chosen for is not known: expected '
            f'auto_scale_lr.base_batch_size in the config, or <gpus>xb<images> in its name. {REMEDY}'
        )
    return published_batch(parent)


def _check_name(reference, cfg, named, stated):
    gpus, images = named
    used = (cfg.get('train_dataloader') or {}).get('batch_size')
    if used != images:
        raise UserError(f'{reference} has train_dataloader.batch_size={used}, but its name states {gpus}xb{images}. {REMEDY}')
    total = gpus * images * accumulated(cfg)
    if stated not in (None, total):
        split = Split(gpus, images, accumulated(cfg), total)
        raise UserError(f'{reference} has auto_scale_lr.base_batch_size={stated}, but its name states {split} = {total}. {REMEDY}')


def _parent(reference):
    """The reference in a config's `_base_`, if it names a single one."""
    if '::' in str(reference):
        return None
    path = absolute(reference)
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        targets = [target.id for target in getattr(node, 'targets', ()) if isinstance(target, ast.Name)]
        if '_base_' in targets and isinstance(node.value, ast.Constant):
            return node.value.value if '::' in node.value.value else str(Path(path.parent, node.value.value))
    return None


def _listed(numbers):
    return ', '.join(map(str, numbers))


def _scale_rates(cfg, factor):
    """Multiply the learning rate, and those in the schedulers."""

    def scaled(value):
        return type(value)(map(scaled, value)) if isinstance(value, (list, tuple)) else float(f'{value * factor:.12g}')

    cfg['optim_wrapper']['optimizer']['lr'] = scaled(cfg['optim_wrapper']['optimizer']['lr'])
    for scheduler in schedulers_of(cfg):
        for field in RATES if 'LR' in type_name(scheduler['type']) else ():
            if scheduler.get(field):
                scheduler[field] = scaled(scheduler[field])


def _state_batch(cfg, here):
    """Write the total batch into the config. mmengine's own scaling ignores accumulation, and is turned off."""
    scaling = dict(cfg.get('auto_scale_lr') or {'enable': False})
    cfg['auto_scale_lr'] = {**scaling, 'base_batch_size': here.batch}
    if not scaling.get('enable'):
        return []
    cfg['auto_scale_lr']['enable'] = False
    return ['auto_scale_lr is off: it would scale the learning rate by the images of one iteration.']


def _kept(published, here, clock, cfg):
    sentences = [f'Keeps the total batch of {count(here.batch, "image")}: {published} before, {here} now.']
    if clock.ratio != 1:
        sentences.append(
            f'A step of the optimizer takes {count(here.accumulated, "iteration")}, so counts of iterations are {clock.ratio} '
            f"times the base's; steps, epochs and learning rates are unchanged."
        )
    if clock.moment(0) and any(counts_iterations(scheduler) for scheduler in schedulers_of(cfg)):
        sentences.append(
            f"Schedulers begin {clock.moment(0)} iterations later than {clock.ratio} times the base's begin, as the optimizer "
            'steps in the last of its iterations.'
        )
    return sentences


def _scaled(published, here, clock, rule, old, new):
    rates = ' -> '.join(repr(cfg['optim_wrapper']['optimizer']['lr']) for cfg in (old, new))
    sentences = [
        f'Scales the learning rate, {rates}, by the {rule} rule: the batch was {count(published.batch, "image")} '
        f'({published}), and is {here.batch} ({here}).'
    ]
    if clock.ratio != 1:
        sentences.append(f"Counts of iterations are {clock.ratio} times the base's, so that as many images are seen.")
    return sentences


def _mixing_notes(cfg, images):
    mixes = [type_name(each['type']) for each in (cfg['model'].get('train_cfg') or {}).get('augments') or []]
    mixes = [name for name in mixes if name in ('Mixup', 'CutMix')]
    if not mixes or images > 1:
        return []
    return [f'{" and ".join(mixes)} mix the images of one GPU: with 1 image they have no effect.']


def batch_norm_notes(cfg, published, here):
    """How the statistics of batch norms change, as they are computed from the images of one iteration."""
    try:
        norms, synced = count_batch_norms(cfg)
    except Exception as error:  # the config can be written all the same
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        return [f'The model could not be built here ({reason}): batch norms, if any, see the images of one iteration only.']
    notes = []
    before, now = published.batch // published.accumulated, here.gpus * here.images
    if synced and before != now:
        notes.append(f'{count(synced, "SyncBN layer")}: statistics of {count(now, "image")} at a time, {before} before.')
    if norms and published.images != here.images:
        images = count(here.images, 'image')
        notes.append(f'{count(norms, "BatchNorm layer")}: statistics of {images} at a time, {published.images} before.')
    if norms + synced and here.accumulated > published.accumulated:
        notes.append('Running averages of batch norms are updated in every iteration, not once per step of the optimizer.')
    return notes


def count_batch_norms(cfg):
    """(batch norms, synchronized batch norms) that compute statistics when a config's model trains in several processes.

    Raises:
        Exception: whatever the constructors of the model raise.
    """
    try:
        model = build_model(cfg)
    except (RuntimeError, NotImplementedError):  # a constructor that reads values
        model = build_model(cfg, 'cpu')
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.training]
    synced = len(norms) if cfg.get('sync_bn') else sum(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    return len(norms) - synced, synced

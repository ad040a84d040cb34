"""The images of one step of the optimizer: how many a config is made for, and how GPUs and iterations share them."""

import ast
import copy
import math
import re
import textwrap
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

from mmfreq.config.difference import changes, difference_lines, leaf_text, plain
from mmfreq.config.iteration_counts import Clock, counts_iterations, rescale_counts, schedulers_of
from mmfreq.config.meta_model import LinspaceOnCpu, logging_disabled
from mmfreq.config.reading import absolute, reference, type_name
from mmfreq.errors import UserError

NAMED = re.compile(r'(?<![a-z0-9])(\d+)xb(\d+)(?![a-z0-9])')
REMEDY = 'Give the images that one step of the optimizer is meant to see, all GPUs together, by --batch.'


@dataclass(frozen=True)
class Split:
    """A total batch and how it is shared out.

    Attributes:
        gpus: None where `images` and `accumulated` do not divide `batch`.
        images: per GPU and iteration.
        accumulated: iterations that one step of the optimizer takes.
        batch: images of one step.
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


def published_split(cfg, batch):
    """How a config with a total batch shares it out."""
    images, iterations = cfg['train_dataloader']['batch_size'], accumulated(cfg)
    gpus, rest = divmod(batch, images * iterations)
    return Split(None if rest else gpus, images, iterations, batch)


def accumulating_split(batch, gpus, images):
    """A total batch on so many GPUs, accumulated where it takes more than one iteration.

    Raises:
        UserError: it cannot be divided so.
    """
    iterations, rest = divmod(batch, gpus * images)
    if not rest:
        return Split(gpus, images, iterations, batch)
    divisors = [n for n in range(1, batch + 1) if batch % n == 0]
    if batch % gpus:
        remedy = f'Numbers of GPUs that divide it: {_listed(divisors)}'
    else:
        remedy = f'With {count(gpus, "GPU")}, --images can be {_listed(n for n in divisors if batch // gpus % n == 0)}'
    asked = f'{count(gpus, "GPU")} x {count(images, "image")} = {gpus * images}'
    raise UserError(
        f'the batch of {count(batch, "image")} is no multiple of {asked}. {remedy}; or scale the learning rate instead, by '
        f'--scale-lr linear.'
    )


def accumulated(cfg):
    """Iterations that one step of a config's optimizer takes."""
    return (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)


def batch_in_name(reference):
    """(GPUs, images per GPU) of `..._8xb2-...`, or None."""
    found = NAMED.search(str(reference).replace('\\', '/').rsplit('/', 1)[-1].removesuffix('.py'))
    return (int(found[1]), int(found[2])) if found else None


def published_batch(reference, cfg=None):
    """Images of one step of the optimizer that a config's recipe is made for, all GPUs and accumulated iterations together.

    `auto_scale_lr.base_batch_size` says it, or `<gpus>xb<images>` in the file's name; a file that inherits from a single one and
    says nothing has that one's.

    Args:
        cfg: the Config, if it has been read.

    Raises:
        UserError: there is no such config, nothing says it, or two sayings differ.
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
            f'nothing says how many images the learning rate of {reference} was chosen for: it has no '
            f'auto_scale_lr.base_batch_size, and no <gpus>xb<images> in its name. {REMEDY}'
        )
    return published_batch(parent)


def read_config(reference):
    """The Config at a path, or of `package::path`.

    Raises:
        UserError: there is no such config.
    """
    if '::' not in str(reference):
        if not absolute(reference).is_file():
            looked = f'looked at {absolute(reference)}'
            raise UserError(f'the config {str(reference)!r} is not there: {looked}. Give a path, or mmseg::..., mmdet::...')
        return Config.fromfile(absolute(reference))
    try:
        return Config.fromstring(f'_base_ = {str(reference)!r}\n', '.py')
    except (FileNotFoundError, ValueError, AssertionError):  # mmengine's, of which some tell nothing
        known = 'mmseg::, mmdet:: or mmpretrain:: and a path in its configs, as mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
        raise UserError(f'there is no config {str(reference)!r}; expected {known}') from None


def _check_name(reference, cfg, named, stated):
    gpus, images = named
    used = (cfg.get('train_dataloader') or {}).get('batch_size')
    if used != images:
        raise UserError(f'{reference} has train_dataloader.batch_size={used}, unlike {gpus}xb{images} of its name. {REMEDY}')
    total = gpus * images * accumulated(cfg)
    if stated not in (None, total):
        split = Split(gpus, images, accumulated(cfg), total)
        raise UserError(
            f'{reference} has auto_scale_lr.base_batch_size={stated}, unlike its name: {split} = {total}. One of them is not what '
            f'its learning rate was chosen for. {REMEDY}'
        )


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


# Batch norms of a config's model, whose statistics are of the images of one iteration, however many make a step.


def count_batch_norms(cfg):
    """(batch norms, synchronised batch norms) that compute statistics when a config's model trains in several processes.

    Raises:
        Exception: whatever the constructors of the model raise.
    """
    cfg = copy.deepcopy(cfg)  # detectors of mmdet write into what they are built from
    model = {key: value for key, value in cfg.model.items() if key != 'pretrained'}
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')), logging_disabled():
        try:
            with torch.device('meta'), LinspaceOnCpu():
                built = MODELS.build(model)
        except (RuntimeError, NotImplementedError):  # a constructor that reads values
            built = MODELS.build(model)
    norms = [module for module in built.train().modules() if isinstance(module, _BatchNorm) and module.training]
    synced = len(norms) if cfg.get('sync_bn') else sum(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)
    return len(norms) - synced, synced


def batch_norm_notes(cfg, published, here):
    """What becomes of batch norms where the images of a config are shared out by the Split `here` instead of `published`."""
    try:
        norms, synced = count_batch_norms(cfg)
    except Exception as error:  # whatever a constructor raises: the config can be written all the same
        told = f'{type(error).__name__}: {error}'.splitlines()[0]
        return [f'The model could not be built here ({told}): batch norms, if any, see the images of one iteration only.']
    notes = []
    before, now = published.batch // published.accumulated, here.gpus * here.images
    if synced and before != now:
        notes.append(f'{count(synced, "SyncBN layer")}: statistics of {count(now, "image")} at a time, {before} before.')
    if norms and published.images != here.images:
        seen = count(here.images, 'image')
        notes.append(f'{count(norms, "BatchNorm layer")}: statistics of {seen} at a time, {published.images} before.')
    if norms + synced and here.accumulated > published.accumulated:
        notes.append('Running averages of batch norms move in every iteration, not once for each step of the optimizer.')
    if (synced and now == 1) or (norms and here.images == 1):
        notes.append('With 1 image a batch norm of a 1x1 map, as in pooling branches, fails in training: take 2 or more.')
    return notes


# A config for other GPUs than it was published for: the same batch, by accumulation, or another, and its learning rate.


RULES = {'linear': float, 'sqrt': math.sqrt}  # of the learning rate, by the ratio of the batches
ACCUMULATING = ('OptimWrapper', 'AmpOptimWrapper', 'ApexOptimWrapper')
RATES = ('eta_min', 'eta_max', 'min_value')  # a scheduler's fields that are learning rates, and no ratios of them
WIDTH = 128


@dataclass(frozen=True)
class FewGpus:
    """A config for other GPUs.

    Attributes:
        config: the whole config, as the leaf gives it.
        text: source of the leaf; its `_base_` is a `package::name`, or a path relative to the file asked for, else absolute.
        summary: sentences that say what was kept and what was changed, with the numbers.
        difference: `key: old -> new`, against the base.
        notes: what a reader should know beyond that.
    """

    config: Config
    text: str
    summary: list[str]
    difference: list[str]
    notes: list[str]


def few_gpus(base, gpus, images=None, rule=None, batch=None, out=None):
    """A config for `gpus` GPUs, as a leaf on the published one.

    By default one step of the optimizer sees the published number of images, accumulated over more iterations. Counts of iterations
    are multiplied, so that the learning rate of every step is the published one; to within one step where a scheduler with an
    `eta_min` other than 0 runs together with another, and for `convert_to_iter_based`. Epochs may end in the middle of a step.

    With a `rule` one step sees another number of images, and its learning rate is scaled. Counts of iterations are multiplied so
    that as many images are seen; momentum and weight decay stay as they are.

    Args:
        base: path of a config, or `mmseg::...`, `mmdet::...`, `mmpretrain::...`.
        images: per GPU and iteration; default the config's.
        rule: None keeps the batch; 'linear' (mmengine's `auto_scale_lr`) or 'sqrt' scales the learning rate by the ratio of the
            batches, or its root.
        batch: images of one step of the optimizer that the config is made for, where it does not say so itself.
        out: path that the leaf will have, if its `_base_` is to be relative to it.

    Returns:
        A `FewGpus`.

    Raises:
        UserError: there is no such config; it is not known how many images it is made for, or they cannot be divided so; there is
            nothing to change; its optimizer or schedulers are of a kind not known here; the name of `out` claims other numbers.
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
        raise UserError(f'{here} give the published batch of {count(here.batch, "image")}: leave --scale-lr out')
    if (here.gpus, here.images, here.accumulated) == (published.gpus, published.images, published.accumulated):
        raise UserError(f'{base} is for {published} already: use it as it is')
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
    stated = changes(old, new)
    whole = _with_leaf(cfg, leaf_text(reference(base), stated))
    if plain(whole.to_dict()) != new:
        raise AssertionError(f'the leaf is not the config it was made for: {difference_lines(new, plain(whole.to_dict()))}')
    comments = [f'{Path(str(base)).stem} on {count(gpus, "GPU")}; written by tools/few_gpus.py.', *summary]
    comments = [line for text in comments for line in textwrap.wrap(text, WIDTH)]
    return FewGpus(
        whole,
        leaf_text(reference(base, out and absolute(out).parent), stated, comments),
        summary,
        difference_lines(old, new),
        notes,
    )


def _check(base, cfg, gpus, images, rule, batch, out):
    for name, value in (('GPUS', gpus), ('--images', images), ('--batch', batch)):
        if value is not None and value < 1:
            raise UserError(f'{name} is {value}; expected 1 or more')
    missing = [key for key in ('model', 'train_cfg', 'train_dataloader', 'optim_wrapper') if not cfg.get(key)]
    if missing:
        raise UserError(f'{base} has no {", ".join(missing)}: expected a whole config that trains, not one of the parts in _base_')
    if 'batch_size' not in cfg['train_dataloader']:
        raise UserError(f'{base} has no train_dataloader.batch_size: expected the number of images per GPU there')
    wrapper = cfg['optim_wrapper']
    if 'optimizer' not in wrapper:
        raise UserError(f'{base} has no optim_wrapper.optimizer: expected a config with one optimizer')
    kind = type_name(wrapper.get('type', 'OptimWrapper'))
    if rule is None and kind not in ACCUMULATING:
        raise UserError(f'{base} has an optim_wrapper of type {kind!r}; those that accumulate: {", ".join(ACCUMULATING)}')
    if rule is not None and 'lr' not in wrapper['optimizer']:
        raise UserError(f'{base} has no optim_wrapper.optimizer.lr to scale: state it there')
    named = out and batch_in_name(out)
    wanted = (gpus, images or cfg['train_dataloader']['batch_size'])
    if named and named != wanted:
        says, is_for = (f'{each[0]}xb{each[1]}' for each in (named, wanted))
        raise UserError(f'the name {Path(out).name} says {says} and the config would be for {is_for}: give it a name that says so')


def _scale_rates(cfg, factor):
    optimizer = cfg['optim_wrapper']['optimizer']
    optimizer['lr'] = _rounded(optimizer['lr'] * factor)
    for scheduler in schedulers_of(cfg):
        for field in RATES if 'LR' in type_name(scheduler['type']) else ():
            if scheduler.get(field):
                value = scheduler[field]
                scheduler[field] = (
                    [_rounded(v * factor) for v in value] if isinstance(value, (list, tuple)) else _rounded(value * factor)
                )


def _state_batch(cfg, here):
    """Say in the config what batch its learning rate is for. mmengine's scaling by it does not know of accumulation, and is off."""
    scaling = dict(cfg.get('auto_scale_lr') or {'enable': False})
    cfg['auto_scale_lr'] = {**scaling, 'base_batch_size': here.batch}
    if not scaling.get('enable'):
        return []
    cfg['auto_scale_lr']['enable'] = False
    return ['auto_scale_lr is off: it would scale the learning rate by the images of one iteration.']


def _kept(published, here, clock, cfg):
    said = [f'Keeps the total batch of {count(here.batch, "image")}: {published} before, {here} now.']
    if clock.ratio != 1:
        said.append(
            f'A step of the optimizer takes {count(here.accumulated, "iteration")}, so counts of iterations are {clock.ratio} '
            f"times the base's; steps, epochs and learning rates stay."
        )
    if clock.moment(0) and any(counts_iterations(scheduler) for scheduler in schedulers_of(cfg)):
        more = f'{clock.moment(0)} more than {clock.ratio} times'
        said.append(f"Begins of schedulers are {more} the base's: the optimizer steps in the last of its iterations.")
    return said


def _scaled(published, here, clock, rule, old, new):
    rates = ' -> '.join(repr(cfg['optim_wrapper']['optimizer']['lr']) for cfg in (old, new))
    said = [
        f'Scales the learning rate, {rates}, by the {rule} rule: the batch was {count(published.batch, "image")} '
        f'({published}), and is {here.batch} ({here}).'
    ]
    if clock.ratio != 1:
        said.append(f"Counts of iterations are {clock.ratio} times the base's, so that as many images are seen.")
    return said


def _mixing_notes(cfg, images):
    mixes = [type_name(each['type']) for each in (cfg['model'].get('train_cfg') or {}).get('augments') or []]
    mixes = [name for name in mixes if name in ('Mixup', 'CutMix')]
    return [f'{" and ".join(mixes)} mix the images of one GPU: with 1 image they do nothing.'] if mixes and images == 1 else []


def _with_leaf(cfg, text):
    """The config that a leaf's text on top of `cfg` gives, without reading the base again: its libraries' lists take seconds."""
    whole = copy.deepcopy(cfg)
    whole.merge_from_dict(Config.fromstring(text.partition('\n')[2], '.py').to_dict())  # but its first line, `_base_`
    return whole


def _rounded(value):
    return float(f'{value:.12g}')

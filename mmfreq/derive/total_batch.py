"""The images of one step of the optimizer: how many a config is made for, and how GPUs and iterations share them."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mmfreq.engine.errors import UserError
from mmfreq.engine.paths import absolute

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

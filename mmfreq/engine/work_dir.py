"""Refuse a work directory whose checkpoints were made from another config.

mmengine dumps the config it ran as `<config name>.py` at the top of the work directory, and overwrites checkpoints of the same
name without a word. Everything here only reads, so that all processes of a distributed run come to the same answer.
"""

import logging
import os
from pathlib import Path

from mmengine.config import Config

from mmfreq.engine.errors import UserError
from mmfreq.engine.machine import sync_to_batch_norm
from mmfreq.engine.notes import say
from mmfreq.engine.paths import absolute

_ABSENT = '(absent)'


class WorkDirError(UserError):
    """The work directory holds checkpoints of another config."""


def checkpoints_in(work_dir):
    """The names of the checkpoints at the top of a folder, sorted; none if there is no such folder."""
    if not os.path.isdir(work_dir):
        return []
    with os.scandir(work_dir) as entries:
        return sorted(entry.name for entry in entries if entry.name.endswith('.pth') or entry.name == 'last_checkpoint')


def check_work_dir(cfg):
    """Raise if `cfg.work_dir` holds checkpoints that were made from another config file or another model.

    Data roots, workers, intervals and schedules may differ, SyncBN is the same as BN, and the folder of a pretrained file does
    not count. A folder without checkpoints, or without a dumped config, passes: whose they are cannot be told then.

    Raises:
        WorkDirError: naming both configs and the parts of the model that differ.
    """
    held = checkpoints_in(cfg.work_dir)
    if not held or cfg.filename is None:
        return
    dumped = sorted(Path(cfg.work_dir).glob('*.py'))
    others = [path for path in dumped if path.stem != Path(cfg.filename).stem]
    if others:
        raise WorkDirError(_message(cfg, held, others[0], [f'its config is {others[0].name}, another file']))
    for path in dumped:
        differences = list(differing_keys(comparable_model(_read(path)), comparable_model(cfg)))
        if differences:
            raise WorkDirError(_message(cfg, held, path, differences))


def warn_of_overwriting(cfg):
    """Say so when a run from the start goes into a folder that holds checkpoints of the same config."""
    held = [name for name in checkpoints_in(cfg.work_dir) if name.endswith('.pth')]
    if held:
        say(
            f'{absolute(cfg.work_dir)} holds {", ".join(held[:3])}{", ..." if len(held) > 3 else ""} and this run starts from '
            'iteration 0: files of the same name will be overwritten. To go on from the latest one, add --resume.',
            level=logging.WARNING,
        )


def comparable_model(cfg):
    """The `model` of a config as plain data in which only what defines the network and its training counts."""
    model = cfg.get('model') or {}
    plain = _plain(model.get('module', model))
    sync_to_batch_norm(plain)
    return plain


def differing_keys(there, here, key='model'):
    """Yield `key: value there, value here` for every leaf in which two nested configs differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*there, *(name for name in here if name not in there)]:
            yield from differing_keys(there.get(name, _ABSENT), here.get(name, _ABSENT), f'{key}.{name}')
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for index, pair in enumerate(zip(there, here)):
            yield from differing_keys(*pair, f'{key}.{index}')
    elif there != here:
        yield f'{key} is {there!r} there and {here!r} here'


def _plain(node):
    if isinstance(node, dict):
        return {name: _plain(child) for name, child in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(child) for child in node]
    if isinstance(node, str) and node.endswith(('.pth', '.pt')):
        return os.path.basename(node)
    return node if isinstance(node, (str, int, float, bool, type(None))) else str(node)


def _read(path):
    try:
        return Config.fromfile(path)
    except Exception as error:
        raise WorkDirError(
            f'{absolute(path)}, which should be the config of the checkpoints beside it, cannot be read ({error}). '
            'Choose another --work-dir, or remove that folder if nothing in it is needed.'
        ) from error


def _message(cfg, held, dumped, differences):
    shown = '\n'.join(f'  {line}' for line in differences[:5]) + ('\n  ...' if len(differences) > 5 else '')
    some = ', '.join(held[:3]) + (', ...' if len(held) > 3 else '')
    return (
        f'the work directory {absolute(cfg.work_dir)} holds checkpoints ({some}) of another config.\n'
        f'Made from: {absolute(dumped)}\nAsked for: {absolute(cfg.filename)}\n{shown}\n'
        'Choose another --work-dir, or remove that folder if nothing in it is needed. Nothing was changed.'
    )

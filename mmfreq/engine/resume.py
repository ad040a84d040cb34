"""Which checkpoint a run starts from: found, there, and readable, or a clear error before anything slow."""

import logging
from pathlib import Path

from mmfreq.engine.errors import UserError
from mmfreq.engine.notes import say
from mmfreq.engine.paths import absolute, is_remote
from mmfreq.engine.work_dir import checkpoints_in

LATEST = 'latest'


def set_start(cfg, resume=None):
    """Fill `cfg.resume` and `cfg.load_from` from the `--resume` option, and check the file they name.

    mmengine resumes from `load_from` where a config sets one, and starts from scratch where it finds no latest checkpoint; here
    the latest checkpoint of the work directory is named in full, or its absence is an error.

    Args:
        resume: None (as the config says), `LATEST`, or the path of a checkpoint.

    Raises:
        UserError: there is nothing to resume from, or the file is not there.
        CheckpointError: the file cannot be read.
    """
    if resume not in (None, LATEST):
        cfg.resume, cfg.load_from = True, str(resume)
    elif resume == LATEST or cfg.get('resume'):
        cfg.resume, cfg.load_from = True, str(latest_checkpoint(cfg.work_dir))
    if cfg.get('load_from'):
        check_file(cfg.load_from, 'checkpoint to resume from' if cfg.get('resume') else 'checkpoint to load')


def warn_of_random_backbone(cfg):
    """Say so when a config that names the ImageNet weights that its published row starts from has none to start from."""
    url = cfg.get('imagenet_checkpoint')
    key = 'model.backbone' if 'backbone' in cfg.model else 'model'  # our image classifier hands its init_cfg on
    if url and not (cfg.get('load_from') or cfg.model.get('backbone', cfg.model).get('init_cfg')):
        say(
            f'The backbone starts from random weights; the published row starts from {url}. To do so too, download it and add '
            f'--cfg-options {key}.init_cfg.type=Pretrained {key}.init_cfg.checkpoint=FILE',
            level=logging.WARNING,
        )


def check_pretrained(node):
    """Raise unless every file that an `init_cfg` of a nested model config names is there and can be read; as `check_file`."""
    if isinstance(node, dict):
        init = node.get('init_cfg')
        for each in init if isinstance(init, (list, tuple)) else [init]:
            if isinstance(each, dict) and each.get('type') == 'Pretrained' and each.get('checkpoint'):
                check_file(each['checkpoint'], f'pretrained checkpoint of {node.get("type", "the model")} (its init_cfg)')
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        check_pretrained(child)


def latest_checkpoint(work_dir):
    """The path of the checkpoint that mmengine saved last in a folder; a folder that was moved since is understood.

    Raises:
        UserError: the folder, its `last_checkpoint` note or the file that the note names is not there.
    """
    folder = absolute(work_dir)
    if not folder.is_dir():
        raise UserError(f'--resume found no folder {folder}: give --work-dir of the run to resume, or leave --resume out.')
    held = [name for name in checkpoints_in(folder) if name.endswith('.pth')]
    known = f'it holds {", ".join(held)}: name one, `--resume {folder / held[-1]}`' if held else 'it holds no checkpoint at all'
    note = folder / 'last_checkpoint'
    if not note.is_file():
        raise UserError(f'--resume found no note `last_checkpoint` in {folder}; {known}, or start afresh without --resume.')
    named = Path(note.read_text().strip())
    for path in (named, folder / named.name):
        if path.is_file():
            return path
    raise UserError(f'{note} names {named}, which is not there, nor is {folder / named.name}; {known}.')


def check_file(path, what='checkpoint'):
    """Raise unless a checkpoint is there and can be read; addresses that are no file are left to mmengine.

    Raises:
        UserError: no such file; says where it looked.
        CheckpointError: it is there and cannot be read.
    """
    from mmfreq.compat.safe_load import read_checkpoint

    if is_remote(path):
        return
    if not absolute(path).is_file():
        kind = 'is a folder' if absolute(path).is_dir() else 'is not there'
        raise UserError(f'the {what} {str(path)!r} {kind}: looked at {absolute(path)}. Give the path of a checkpoint file.')
    read_checkpoint(path)

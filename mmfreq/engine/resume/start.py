"""Refuse a work directory whose checkpoints were made from another config.

mmengine dumps the config it ran as `<config name>.py` at the top of the work directory, and overwrites checkpoints of the same
name without a word. Everything here only reads, so that all processes of a distributed run come to the same answer.
"""

import logging
import os
import re
from pathlib import Path

from mmengine.config import Config

from mmfreq.compat.safe_load import CheckpointError, read_checkpoint, unpickles_by_default
from mmfreq.config.reading import absolute, is_remote
from mmfreq.engine.processes import sync_to_batch_norm
from mmfreq.errors import UserError
from mmfreq.log import log_once
from mmfreq.weights.download import is_address, local_file

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
        log_once(
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


# Which checkpoint a run starts from: found, there, and readable, or a clear error before anything slow.


STEP = re.compile(r'(\d+)\.pth$')
LATEST = 'latest'
AUTO = 'auto'


def set_start(cfg, resume=None):
    """Fill `cfg.resume` and `cfg.load_from` from the `--resume` option, and check the file they name.

    mmengine resumes from `load_from` where a config sets one, and starts from scratch where it finds no latest checkpoint; here
    the latest whole checkpoint of the work directory is named in full, or its absence is an error. A resumed run has the seed of
    its checkpoint from the start; mmengine takes it over after it has made the samplers with another one.

    Args:
        resume: None (as the config says), `LATEST`, `AUTO` (the latest if there is any, else from the start), or the path of a
            checkpoint.

    Raises:
        UserError: there is nothing to resume from, or the file is not there.
        CheckpointError: the file cannot be read.
    """
    if resume == AUTO and not any(name.endswith('.pth') for name in checkpoints_in(cfg.work_dir)):
        log_once(f'{absolute(cfg.work_dir)} holds no checkpoint: the run starts from the beginning.')
        resume, cfg.resume = None, False
    elif resume in (LATEST, AUTO) or (resume is None and cfg.get('resume')):
        resume, content = latest_checkpoint(cfg.work_dir)
    elif resume is not None:
        resume = local_file(resume)
        content = check_file(resume, 'checkpoint to resume from')
    if resume is not None:
        cfg.resume, cfg.load_from = True, str(resume)
        _take_seed(cfg, content)
    elif cfg.get('load_from'):
        cfg.load_from = str(local_file(cfg.load_from))
        check_file(cfg.load_from, 'checkpoint to load')


def _take_seed(cfg, content):
    seed = content.get('meta', {}).get('seed') if isinstance(content, dict) and isinstance(content.get('meta'), dict) else None
    if seed is None:
        return
    given = (cfg.get('randomness') or {}).get('seed')
    if given not in (None, seed):
        log_once(f'The seed is {seed}, of the checkpoint that is resumed, and not {given}.', level=logging.WARNING)
    cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}


def warn_of_random_backbone(cfg):
    """Say so when a config that names the ImageNet weights that its published row starts from has none to start from."""
    url = cfg.get('imagenet_checkpoint')
    key = 'model.backbone' if 'backbone' in cfg.model else 'model'  # our image classifier hands its init_cfg on
    if url and not (cfg.get('load_from') or cfg.model.get('backbone', cfg.model).get('init_cfg')):
        log_once(
            f'The backbone starts from random weights; the published row starts from {url}. To do so too, download it and add '
            f'--cfg-options {key}.init_cfg.type=Pretrained {key}.init_cfg.checkpoint=FILE',
            level=logging.WARNING,
        )


def check_pretrained(node):
    """Raise unless every file that an `init_cfg` of a nested model config names is there and can be read; as `check_file`.

    An http(s) address is replaced in the config by the file that was downloaded, or mmengine would fetch it again, unchecked.
    """
    if isinstance(node, dict):
        init = node.get('init_cfg')
        for each in init if isinstance(init, (list, tuple)) else [init]:
            if isinstance(each, dict) and each.get('type') == 'Pretrained' and each.get('checkpoint'):
                if is_address(each['checkpoint']):
                    each['checkpoint'] = str(local_file(each['checkpoint']))
                check_file(each['checkpoint'], f'pretrained checkpoint of {node.get("type", "the model")} (its init_cfg)')
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        check_pretrained(child)


def latest_checkpoint(work_dir):
    """The latest whole checkpoint of a run's folder; a folder that was moved since is understood.

    What cannot be read, such as a file that was being written when the machine went down, is left out with a warning, and the one
    before is taken.

    Returns:
        Its path, and its content.

    Raises:
        UserError: the folder is not there, or holds no checkpoint that can be read.
    """
    folder = absolute(work_dir)
    if not folder.is_dir():
        raise UserError(f'--resume found no folder {folder}: give --work-dir of the run to resume, or leave --resume out.')
    candidates = latest_first(folder)
    if not candidates:
        raise UserError(f'--resume found no checkpoint in {folder}: it holds no checkpoint at all. Start without --resume.')
    faults = []
    for path in candidates:
        try:
            content = check_file(path)
        except CheckpointError as error:
            faults.append(str(error))
            log_once(f'{error} It is skipped, and the previous checkpoint is tried.', level=logging.WARNING)
        else:
            return path, content
    raise UserError(f'--resume found no checkpoint in {folder} that can be read:\n' + '\n'.join(f'  {fault}' for fault in faults))


def latest_first(folder):
    """The training checkpoints of a folder, latest first.

    The note `last_checkpoint` is written after the file it names. What is before it was written later, and is further in the run;
    what follows are those of earlier iterations. Without a note the time of writing decides. Checkpoints of a longer run that
    this one overwrites are neither; best checkpoints have no optimizer.
    """
    paths = [path for path in folder.glob('*.pth') if STEP.search(path.name) and not path.name.startswith('best_')]
    note = folder / 'last_checkpoint'
    named = folder / Path(note.read_text(errors='replace').strip()).name if note.is_file() else folder
    if named not in paths:
        return sorted(paths, key=_age_and_step, reverse=True)
    later = [path for path in paths if _is_newer(path, named) and _is_further(path, named)]
    earlier = [path for path in paths if path != named and not _is_further(path, named)]
    return [*sorted(later, key=_age_and_step, reverse=True), named, *sorted(earlier, key=_step_and_age, reverse=True)]


def _is_newer(path, named):
    return path.stat().st_mtime_ns > named.stat().st_mtime_ns


def _is_further(path, named):
    """Whether a checkpoint is of a later place in the run: by the number in its name, or by age where they count differently."""
    return _step(path) > _step(named) if _unit(path) == _unit(named) else _is_newer(path, named)


def _unit(path):
    return STEP.sub('', path.name).removeprefix('interrupted_')


def _step(path):
    return int(STEP.search(path.name)[1])


def _age_and_step(path):
    return path.stat().st_mtime_ns, _step(path)


def _step_and_age(path):
    return _unit(path), _step(path), path.stat().st_mtime_ns


def check_file(path, what='checkpoint'):
    """The content of a checkpoint, on the CPU, from a file or an http(s) address; None for others, which are left to mmengine.

    mmengine reads the file once more with a plain `torch.load`, which before torch 2.6 would run code out of it. That it holds
    none is known by then.

    Raises:
        UserError: no such file; says where it looked. An address that is left to mmengine, where its `torch.load` would run code.
        CheckpointError: it is there and cannot be read, or cannot be downloaded.
    """
    path = local_file(path)
    if is_remote(path) and unpickles_by_default():
        raise UserError(
            f'the {what} {path} would be read by a torch.load that runs code out of files (torch before 2.6, or '
            'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set): download it, and give the path of the file.'
        )
    if is_remote(path):
        return None
    if not absolute(path).is_file():
        kind = 'is a folder' if absolute(path).is_dir() else 'is not there'
        raise UserError(f'the {what} {str(path)!r} {kind}: looked at {absolute(path)}. Give the path of a checkpoint file.')
    return read_checkpoint(path)

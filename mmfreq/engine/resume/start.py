"""Where a run starts: the checkpoint to resume from or to load, pretrained weights, and the check of the work directory.

Everything here only reads, so that all processes of a distributed run come to the same result, and a refused run changes nothing.
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
from mmfreq.weights.in_configs import drop_pretrained, pretrained_parts
from mmfreq.weights.store import SCHEME, is_named, local_file

LATEST = 'latest'
AUTO = 'auto'
STEP = re.compile(r'(\d+)\.pth$')
ABSENT = '(absent)'  # in a list of differences
NEW_WORK_DIR = 'Choose another --work-dir, or remove that folder if nothing in it is needed.'


class WorkDirError(UserError):
    """The work directory holds checkpoints of another config."""


def set_start(cfg, resume=None):
    """Fill `cfg.resume` and `cfg.load_from` from the `--resume` option, and check the file that they name.

    mmengine resumes from `load_from` if a config sets it, and starts from scratch if it finds no latest checkpoint. This function
    fills in the latest complete checkpoint of the work directory, and raises if there is none. It also takes over the seed of the
    checkpoint; mmengine reads it only after it has made the samplers with another one.

    Args:
        resume: None (as the config says), `LATEST`, `AUTO` (the latest one, or from scratch if there is none), or a path.

    Raises:
        UserError: there is no checkpoint to resume from, or the file does not exist.
        CheckpointError: the file cannot be read.
    """
    if resume == AUTO and not latest_first(absolute(cfg.work_dir)):
        log_once(f'{absolute(cfg.work_dir)} holds no checkpoint to resume from: the run starts from scratch.')
        resume, cfg.resume = None, False
    elif resume in (LATEST, AUTO) or (resume is None and cfg.get('resume')):
        resume, content = latest_checkpoint(cfg.work_dir)
    elif resume is not None:
        resume = local_file(resume)
        content = check_file(resume, 'checkpoint to resume from')
    if resume is not None:
        cfg.resume, cfg.load_from = True, str(resume)
        _take_seed(cfg, content)
    elif cfg.get('load_from') and not is_named(cfg.load_from):
        check_file(cfg.load_from, 'checkpoint to load')


def _take_seed(cfg, content):
    meta = content.get('meta') if isinstance(content, dict) else None
    seed = meta.get('seed') if isinstance(meta, dict) else None
    if seed is None:
        return
    given = (cfg.get('randomness') or {}).get('seed')
    if given not in (None, seed):
        log_once(f'The seed is {seed}, from the checkpoint to resume, not {given}.', level=logging.WARNING)
    cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}


def check_pretrained(model):
    """Check every local file that an `init_cfg` of a nested model config names, with the errors of `check_file`."""
    for part, init in pretrained_parts(model):
        if not is_named(init['checkpoint']):
            check_file(init['checkpoint'], role_of(part))


def role_of(part):
    return f'pretrained checkpoint of {part.get("type", "the model")} (its init_cfg)'


def fetch_weights(cfg):
    """Find or download every file that a run starts from, and read it once, with the errors of `local_file` and `check_file`.

    The path of the file replaces a URL or the name of a hub file, which others would download again. `mmfreq://` names stay.
    """
    if cfg.get('load_from') and is_named(cfg.load_from):
        cfg.load_from = str(local_file(cfg.load_from, asked=True))
        check_file(cfg.load_from, 'checkpoint to load')
    for part, init in pretrained_parts(cfg.model):
        if is_named(source := init['checkpoint']):
            path = local_file(source, asked=True)
            check_file(path, role_of(part))
            if not source.startswith(SCHEME):
                init['checkpoint'] = str(path)


def check_file(path, role='checkpoint'):
    """Read a checkpoint on the CPU; None for addresses of other kinds, such as s3://, which mmengine reads.

    mmengine reads the file again with a plain `torch.load`, which before torch 2.6 would run code in it. This check has then shown
    that there is none.

    Raises:
        UserError: the file does not exist; or mmengine would read an address with a `torch.load` that runs code.
        CheckpointError: the file cannot be read.
    """
    if is_remote(path) and unpickles_by_default():
        raise UserError(
            f'The {role} {path} would be read by a torch.load that runs code in files (torch before 2.6, or '
            'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set). Please download it, and give the path of the file.'
        )
    if is_remote(path):
        return None
    if absolute(path).is_dir():  # of tools/publish.py
        path = local_file(path)
    if not absolute(path).is_file():
        fault = 'is a folder' if absolute(path).is_dir() else 'does not exist'
        raise UserError(f'The {role} {str(path)!r} {fault}: looked for {absolute(path)}. Give the path of a checkpoint file.')
    return read_checkpoint(path)


def checkpoints_in(work_dir):
    """The sorted names of the checkpoints at the top of a folder; empty if there is no such folder."""
    if not os.path.isdir(work_dir):
        return []
    with os.scandir(work_dir) as entries:
        return sorted(entry.name for entry in entries if entry.name.endswith('.pth') or entry.name == 'last_checkpoint')


def latest_checkpoint(work_dir):
    """The path and content of the latest complete checkpoint of a run's folder, which may have been moved.

    An unreadable file, such as one that was being written during a crash, is skipped with a warning.

    Raises:
        UserError: the folder does not exist, or holds no readable checkpoint.
    """
    folder = absolute(work_dir)
    if not folder.is_dir():
        raise UserError(f'--resume found no folder {folder}. Give --work-dir of the run to resume, or remove --resume.')
    candidates = latest_first(folder)
    if not candidates:
        raise UserError(f'--resume found no checkpoint in {folder}. Give --work-dir of the run to resume, or remove --resume.')
    faults = []
    for path in candidates:
        try:
            return path, check_file(path)
        except CheckpointError as error:
            faults.append(str(error))
            log_once(f'Skipping an unreadable checkpoint, and trying the one before it: {error}', level=logging.WARNING)
    raise UserError(f'--resume found no readable checkpoint in {folder}:\n' + '\n'.join(f'  {fault}' for fault in faults))


def latest_first(folder):
    """The training checkpoints of a folder, latest first.

    mmengine writes the file `last_checkpoint` after the checkpoint that it names. Example: it names iter_300.pth. The order is
    iter_400.pth (written after iter_300.pth), iter_300.pth, iter_200.pth. An iter_900.pth that is older than iter_300.pth is from a
    longer run that this one overwrites, and is skipped. Without `last_checkpoint` the time of writing decides. Best checkpoints and
    files without a number in their name are skipped: they have no optimizer.
    """
    paths = [path for path in folder.glob('*.pth') if STEP.search(path.name) and not path.name.startswith('best_')]
    note = folder / 'last_checkpoint'
    named = folder / Path(note.read_text(errors='replace').strip()).name if note.is_file() else folder
    if named not in paths:
        return sorted(paths, key=_time_and_step, reverse=True)
    later = [path for path in paths if _is_newer(path, named) and _is_further(path, named)]
    earlier = [path for path in paths if path != named and not _is_further(path, named)]
    return [
        *sorted(later, key=_time_and_step, reverse=True),
        named,
        *sorted(earlier, key=lambda path: (_unit(path), *_time_and_step(path)[::-1]), reverse=True),
    ]


def _is_newer(path, named):
    return path.stat().st_mtime_ns > named.stat().st_mtime_ns


def _is_further(path, named):
    """Whether a checkpoint is later in the run: by the number in its name, or by its time if the names count different units."""
    return _step(path) > _step(named) if _unit(path) == _unit(named) else _is_newer(path, named)


def _unit(path):
    return STEP.sub('', path.name).removeprefix('interrupted_')


def _step(path):
    return int(STEP.search(path.name)[1])


def _time_and_step(path):
    return path.stat().st_mtime_ns, _step(path)


def check_work_dir(cfg):
    """Raise if `cfg.work_dir` holds checkpoints of another config file or another model.

    Data roots, workers, intervals, schedules and folders of pretrained files may differ, and SyncBN equals BN. A folder without
    checkpoints, or without the config that mmengine dumps as `<config name>.py`, passes: there is nothing to compare.

    Raises:
        WorkDirError: with both configs, and the keys of the model that differ.
    """
    held = checkpoints_in(cfg.work_dir)
    if not held or cfg.filename is None:
        return
    dumped = sorted(Path(cfg.work_dir).glob('*.py'))
    others = [path for path in dumped if path.stem != Path(cfg.filename).stem]
    if others:
        raise WorkDirError(_other_config_message(cfg, held, others[0], [f'its config is {others[0].name}, another file']))
    for path in dumped:
        differences = list(differing_keys(comparable_model(_read_dumped(path)), comparable_model(cfg)))
        if differences:
            raise WorkDirError(_other_config_message(cfg, held, path, differences))


def _read_dumped(path):
    try:
        return Config.fromfile(path)
    except Exception as error:
        raise WorkDirError(
            f'{absolute(path)} should be the config of the checkpoints beside it, but cannot be read ({error}). {NEW_WORK_DIR}'
        ) from error


def _other_config_message(cfg, held, dumped, differences):
    shown = '\n'.join(f'  {line}' for line in differences[:5]) + ('\n  ...' if len(differences) > 5 else '')
    return (
        f'The work directory {absolute(cfg.work_dir)} holds checkpoints ({_first_names(held)}) of another config.\n'
        f'Config of the checkpoints: {absolute(dumped)}\nConfig of this run: {absolute(cfg.filename)}\n{shown}\n'
        f'{NEW_WORK_DIR} Nothing was changed.'
    )


def _first_names(names):
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


def comparable_model(cfg):
    """The `model` of a config as plain data, reduced to what defines the network and its training."""
    model = cfg.get('model') or {}
    plain = _plain(model.get('module', model))
    drop_pretrained(plain)  # a resumed run does not load it again
    sync_to_batch_norm(plain)
    return plain


def _plain(node):
    if isinstance(node, dict):
        return {name: _plain(child) for name, child in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(child) for child in node]
    if isinstance(node, str) and node.endswith(('.pth', '.pt')):
        return os.path.basename(node)
    return node if isinstance(node, (str, int, float, bool, type(None))) else str(node)


def differing_keys(there, here, key='model'):
    """Yield `key is X there and Y here` for every leaf in which two nested configs differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*there, *(name for name in here if name not in there)]:
            yield from differing_keys(there.get(name, ABSENT), here.get(name, ABSENT), f'{key}.{name}')
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for index, pair in enumerate(zip(there, here)):
            yield from differing_keys(*pair, f'{key}.{index}')
    elif there != here:
        yield f'{key} is {there!r} there and {here!r} here'


def warn_of_overwriting(cfg):
    """Warn if a run from scratch goes into a folder with checkpoints of the same config."""
    held = [name for name in checkpoints_in(cfg.work_dir) if name.endswith('.pth')]
    if held:
        log_once(
            f'{absolute(cfg.work_dir)} holds {_first_names(held)}, and this run starts from iteration 0: files of the same name '
            'will be overwritten. Add --resume to continue from the latest one.',
            level=logging.WARNING,
        )

"""Is there room for the checkpoints of a run?"""

import math
import shutil
from pathlib import Path

from mmfreq.engine.errors import UserError
from mmfreq.engine.machine import type_name
from mmfreq.engine.paths import absolute, is_remote
from mmfreq.engine.preflight.report import size_text

# tensors of a parameter's shape that an optimizer keeps for it; where a name is not here, none is counted
STATES = {
    **dict.fromkeys(('Adam', 'AdamW', 'NAdam', 'RAdam', 'Adamax', 'LAMB', 'Lamb', 'AdaBelief', 'Adan', 'AdamW8bit'), 2),
    **dict.fromkeys(('Adagrad', 'RMSprop', 'Lion', 'ASGD'), 1),
}


class DiskError(UserError):
    """The file system of the work directory has no room for checkpoints."""


def check_disk(cfg, report, model):
    """Compare the checkpoints that a run will keep with the free space where they go.

    What the work directory holds already counts as room, as resuming goes on in it.

    Raises:
        DiskError: not even two checkpoints fit.
    """
    hook = _hook(cfg, 'CheckpointHook')
    if hook is None or is_remote(str(hook.get('out_dir') or '')):
        return
    size, kept, best = checkpoint_bytes(cfg, model), checkpoints_kept(cfg, hook), _best(hook)
    folder = absolute(hook.get('out_dir') or cfg.work_dir)
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    count = '' if kept is None else f'{kept + best} checkpoints'
    fact = f'{size_text(size)} each; {size_text(free)} free at {folder}'
    report.facts['checkpoints'] = f'{count}, {size_text((kept + best) * size)}: {fact}' if count else fact
    room = free + sum(path.stat().st_size for path in Path(folder).glob('*.pth'))
    remedy = (
        'Free some space, choose another --work-dir, or keep fewer: --cfg-options default_hooks.checkpoint.max_keep_ckpts=2 '
        '(the latest two), or a larger default_hooks.checkpoint.interval.'
    )
    if room < 2 * size:
        raise DiskError(
            f'{folder} has {size_text(free)} free, and a checkpoint takes {size_text(size)}: two must fit, as a new one is written '
            f'before an old one goes. {remedy}'
        )
    if kept is not None and room < (kept + best) * size:
        report.warnings.append(
            f'The disk will be full before the end: interval={hook.get("interval", -1)}, '
            f'max_keep_ckpts={hook.get("max_keep_ckpts", -1)} makes {kept} checkpoints'
            f'{f" and {best} best" if best else ""} of {size_text(size)}, together {size_text((kept + best) * size)}, and '
            f'{folder} has '
            f'{size_text(free)} free. {remedy}'
        )


def checkpoint_bytes(cfg, model):
    """Bytes of one checkpoint: parameters and buffers, once more with EMA, and the optimizer's states of what is trained."""
    state = sum(tensor.nbytes for tensor in model.state_dict().values())
    copies = 2 if _hook(cfg, 'EMAHook') is not None else 1
    saves_optimizer = (_hook(cfg, 'CheckpointHook') or {}).get('save_optimizer', True)
    return copies * state + (optimizer_bytes(cfg, model) if saves_optimizer else 0)


def optimizer_bytes(cfg, model):
    """Bytes of the optimizer's states; none where its kind is not known."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    kind = type_name(optimizer.get('type', ''))
    states = int(bool(optimizer.get('momentum'))) if kind == 'SGD' else STATES.get(kind, 0) + bool(optimizer.get('amsgrad'))
    return states * sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)


def checkpoints_kept(cfg, hook):
    """How many checkpoints lie there at the end, without the best ones; None where the schedule does not say."""
    interval, limit = hook.get('interval', -1), hook.get('max_keep_ckpts', -1)
    length = (cfg.get('train_cfg') or {}).get('max_epochs' if hook.get('by_epoch', True) else 'max_iters')
    if limit > 0:
        return limit
    if interval <= 0:
        return 1
    return None if length is None else math.ceil(max(length - hook.get('save_begin', 0), interval) / interval)


def _best(hook):
    best = hook.get('save_best')
    return len(best) if isinstance(best, (list, tuple)) else int(bool(best))


def _hook(cfg, name):
    """The config of a default or custom hook by its bare name; None if there is none."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return next((hook for hook in hooks if isinstance(hook, dict) and type_name(hook.get('type', '')) == name), None)

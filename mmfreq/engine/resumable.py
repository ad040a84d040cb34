"""Put the parts of ours that make a run safe to interrupt in the place of mmengine's own, in a config."""

from mmfreq.engine.machine import type_name

LOOPS = ('IterBasedTrainLoop', 'EpochBasedTrainLoop')
HOOK = 'CheckpointHook'
STOP_HOOK = 'mmfreq.StopInValidationHook'


def make_resumable(cfg):
    """Change `train_cfg`, the checkpoint hook and `custom_hooks` of a Config in place.

    Only mmengine's own loop and hook are replaced, by what takes the same arguments; those of another library stay, and what
    `docs/reliability.md` says of resuming does not hold for them.
    """
    loop = cfg.get('train_cfg')
    if loop:
        if 'by_epoch' in loop:  # mmengine's short way to name a loop
            loop.type = LOOPS[bool(loop.pop('by_epoch'))]
        if _is_stock(loop.get('type'), LOOPS):
            loop.type = f'mmfreq.{type_name(loop.type)}'
    hooks = cfg.setdefault('default_hooks', {})
    checkpoint = hooks.setdefault('checkpoint', {'type': HOOK, 'interval': 1})  # as mmengine does it where a config is silent
    if checkpoint and _is_stock(checkpoint.get('type'), (HOOK,)):
        checkpoint['type'] = f'mmfreq.{HOOK}'
    present = [hook.get('type') if isinstance(hook, dict) else '' for hook in cfg.get('custom_hooks') or []]
    if STOP_HOOK not in present:
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), {'type': STOP_HOOK}]


def _is_stock(kind, names):
    """Whether a `type=` names one of mmengine's own classes: by its name alone, with the scope, or as the class."""
    if isinstance(kind, str):
        return kind in names or kind in [f'mmengine.{name}' for name in names]
    return type_name(kind) in names and kind.__module__.startswith('mmengine.')

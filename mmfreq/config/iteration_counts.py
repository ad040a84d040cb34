"""All counts of iterations in a config, multiplied: for steps of the optimizer with more iterations, or with fewer images.

mmengine's loops, hooks and schedulers with `by_epoch=False` count iterations, whether the optimizer steps in them or not. Epochs,
and what `convert_to_iter_based` derives from them, follow the length of the data loader automatically. The interval of the log is
not changed, as it does not affect the training.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from mmfreq.config.reading import type_name
from mmfreq.errors import UserError

INF = int(1e9)  # mmengine's `end` of a scheduler that never ends
VAL_INTERVAL = 1000  # IterBasedTrainLoop's default
# scheduler, without LR, Momentum or WeightDecay -> its fields that are durations. The formulas of the last two cannot be stretched
# exactly: they are at most one step of the optimizer off.
DURATIONS = {
    'Linear': (),
    'Constant': (),
    'Poly': (),
    'PolyRatio': (),
    'Exponential': (),
    'Step': ('step_size',),
    'MultiStep': ('milestones',),
    'CosineAnnealing': ('T_max',),
    'CosineRestart': ('periods',),
    'QuadraticWarmup': (),
    'OneCycle': ('total_steps',),
}
EMA_GAMMA = {'MomentumAnnealingEMA': 100, 'ExpMomentumEMA': 2000}  # averages with a time constant in iterations -> its default


@dataclass(frozen=True)
class Clock:
    """Maps iterations of a config to those of another, in which `ratio` iterations do the work of one.

    Attributes:
        ratio: new iterations per old one, a Fraction; if it is not an integer, counts are rounded.
        accumulates: whether the new iterations accumulate gradients for one step, which the last of them makes.
    """

    ratio: Fraction
    accumulates: bool

    def span(self, count):
        """A number of iterations; 0 and negative numbers turn something off and are not changed."""
        return max(1, round(self.ratio * count)) if count > 0 else count

    def moment(self, index):
        """Index (from 0) of the iteration that makes the optimizer step of the old iteration `index`."""
        return max(0, round(self.ratio * (index + 1) - 1 if self.accumulates else self.ratio * index))


def schedulers_of(cfg):
    """The parameter schedulers of a nested config, as a list of its dicts."""
    found = cfg.get('param_scheduler') or []
    return [found] if isinstance(found, dict) else list(found)


def counts_iterations(scheduler):
    """Whether a scheduler counts iterations, not epochs."""
    return not scheduler.get('by_epoch', True)


def rescale_counts(cfg, clock):
    """Change every count of iterations of a nested config, in place.

    Returns:
        Notes on what may count iterations and was not changed.

    Raises:
        UserError: a scheduler of an unsupported type counts iterations.
    """
    loop = cfg['train_cfg']
    max_iters = loop.get('max_iters')
    if max_iters:
        _rescale_loop(loop, clock)
    if 'num_batch_per_epoch' in cfg['train_dataloader']:
        cfg['train_dataloader']['num_batch_per_epoch'] = clock.span(cfg['train_dataloader']['num_batch_per_epoch'])
    for scheduler in schedulers_of(cfg):
        if counts_iterations(scheduler):
            _rescale_scheduler(scheduler, clock, max_iters)
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return [note for hook in hooks if hook for note in _rescale_hook(hook, clock)]


def _rescale_loop(loop, clock):
    loop['max_iters'] = clock.span(loop['max_iters'])
    loop['val_interval'] = clock.span(loop.get('val_interval', VAL_INTERVAL))
    if 'val_begin' in loop:
        loop['val_begin'] = clock.span(loop['val_begin'])
    if loop.get('dynamic_intervals'):  # an interval is valid from the iteration before its milestone
        loop['dynamic_intervals'] = [(clock.span(m - 1) + 1, clock.span(interval)) for m, interval in loop['dynamic_intervals']]


def _rescale_scheduler(scheduler, clock, max_iters):
    name = re.sub('LR|Momentum|WeightDecay|ParamScheduler', '', type_name(scheduler['type']))
    if name not in DURATIONS:
        raise UserError(
            f'param_scheduler has a {scheduler["type"]!r} that counts iterations; supported are '
            f'{", ".join(DURATIONS)} (LR, Momentum or WeightDecay). Use by_epoch=True, or write the config manually.'
        )
    begin, end = scheduler.get('begin', 0), scheduler.get('end')
    last = end if end is not None and end < INF else max_iters
    if name == 'CosineAnnealing' and not scheduler.get('T_max') and last:
        scheduler['T_max'] = last - begin  # mmengine's default; written out, as `end` is not stretched like a duration
    for field in DURATIONS[name]:
        value = scheduler.get(field)
        if value is not None:
            scheduler[field] = [clock.span(each) for each in value] if isinstance(value, (list, tuple)) else clock.span(value)
    if name == 'Exponential':
        scheduler['gamma'] = scheduler['gamma'] ** float(1 / clock.ratio)
    if clock.moment(begin) != begin:
        scheduler['begin'] = clock.moment(begin)
    if end is not None and end < INF:
        scheduler['end'] = clock.moment(end - 1) + 1


def _rescale_hook(hook, clock):
    name = type_name(hook['type'])
    if name == 'CheckpointHook':
        for field in ('interval', 'save_begin') if not hook.get('by_epoch', True) else ():
            if field in hook:
                hook[field] = clock.span(hook[field])
    elif name == 'EMAHook':
        _rescale_average(hook, clock)
    elif name not in ('LoggerHook', 'PreciseBNHook') and not name.endswith('VisualizationHook'):
        counts = [key for key, value in hook.items() if re.search('interval|iter', key) and value and not isinstance(value, bool)]
        if counts:
            return [f'{name}.{", ".join(counts)} was not changed: multiply it by {clock.ratio} if it counts training iterations.']
    return []


def _rescale_average(hook, clock):
    """Let an EMAHook average the model after the same steps of the optimizer. One with `begin_epoch` may be a step late."""
    hook['interval'] = clock.span(hook.get('interval', 1))
    if not hook.get('begin_epoch'):
        begin = clock.moment(max(hook.get('begin_iter', 0), 1) - 1) + 1  # its first iteration copies the model; counted from 1
        if begin > 1:
            hook['begin_iter'] = begin
    average = type_name(hook.get('ema_type', ''))
    if average in EMA_GAMMA:
        hook['gamma'] = clock.span(hook.get('gamma', EMA_GAMMA[average]))

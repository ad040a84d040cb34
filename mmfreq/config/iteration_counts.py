"""The counts of iterations in a config, told anew where a step of the optimizer takes more iterations, or fewer images.

mmengine's loops, its hooks and the schedulers with `by_epoch=False` count iterations, whether the optimizer steps in them or not.
Epochs, and what is converted from them by `convert_to_iter_based`, follow the length of the data loader by themselves. How often
the log is written is no part of a recipe, and stays.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from mmfreq.config.reading import type_name
from mmfreq.errors import UserError

INF = int(1e9)  # mmengine's `end` of a scheduler that never ends
VAL_INTERVAL = 1000  # IterBasedTrainLoop's default
# Scheduler, without LR, Momentum or WeightDecay -> its fields that are durations. Of the last two, mmengine's formulas are not of
# the kind that can be stretched: they are met to within one step of the optimizer, the others exactly.
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
EMA_GAMMA = {'MomentumAnnealingEMA': 100, 'ExpMomentumEMA': 2000}  # averages that slow down over iterations: default time constants


@dataclass(frozen=True)
class Clock:
    """From the iterations of a config to those of another in which `ratio` iterations do the work of one.

    Attributes:
        ratio: new iterations for an old one, a Fraction. All counts are whole where it is; otherwise they are rounded.
        accumulates: the new iterations add up to the step of the old one, and the last of them makes it; else each makes its own.
    """

    ratio: Fraction
    accumulates: bool

    def span(self, count):
        """A number of iterations; a negative one, or 0, switches something off, and stays."""
        return max(1, round(self.ratio * count)) if count > 0 else count

    def moment(self, index):
        """Index, from 0, of the iteration that makes the step of the optimizer that iteration `index` made."""
        return max(0, round(self.ratio * (index + 1) - 1 if self.accumulates else self.ratio * index))


def schedulers_of(cfg):
    """The parameter schedulers of a nested config, as a list of its own dicts."""
    found = cfg.get('param_scheduler') or []
    return [found] if isinstance(found, dict) else list(found)


def counts_iterations(scheduler):
    """Whether a scheduler's config is in iterations."""
    return not scheduler.get('by_epoch', True)


def rescale_counts(cfg, clock):
    """Change every count of iterations of a nested config, in place.

    Returns:
        Notes on what may count iterations and was left as it is.

    Raises:
        UserError: a scheduler counts iterations in a way that is not known here.
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
    if loop.get('dynamic_intervals'):  # an interval holds after as many iterations as its milestone says, less one
        loop['dynamic_intervals'] = [(clock.span(m - 1) + 1, clock.span(interval)) for m, interval in loop['dynamic_intervals']]


def _rescale_scheduler(scheduler, clock, max_iters):
    kind = re.sub('LR|Momentum|WeightDecay|ParamScheduler', '', type_name(scheduler['type']))
    if kind not in DURATIONS:
        raise UserError(
            f'param_scheduler has a {scheduler["type"]!r} that counts iterations, and how is not known here; known: '
            f'{", ".join(DURATIONS)} (LR, Momentum or WeightDecay). Write it with by_epoch=True, or change its counts by hand.'
        )
    begin, end = scheduler.get('begin', 0), scheduler.get('end')
    last = end if end is not None and end < INF else max_iters
    if kind == 'CosineAnnealing' and not scheduler.get('T_max') and last:
        scheduler['T_max'] = last - begin  # mmengine's default; stated, as moments do not stretch with durations
    for field in DURATIONS[kind]:
        value = scheduler.get(field)
        if value is not None:
            scheduler[field] = [clock.span(each) for each in value] if isinstance(value, (list, tuple)) else clock.span(value)
    if kind == 'Exponential':
        scheduler['gamma'] = scheduler['gamma'] ** float(1 / clock.ratio)
    if clock.moment(begin) != begin:
        scheduler['begin'] = clock.moment(begin)
    if end is not None and end < INF:
        scheduler['end'] = clock.moment(end - 1) + 1


def _rescale_hook(hook, clock):
    kind = type_name(hook['type'])
    if kind == 'CheckpointHook':
        for field in ('interval', 'save_begin') if not hook.get('by_epoch', True) else ():
            if field in hook:
                hook[field] = clock.span(hook[field])
    elif kind == 'EMAHook':
        _rescale_average(hook, clock)
    elif kind not in ('LoggerHook', 'PreciseBNHook') and not kind.endswith('VisualizationHook'):
        counts = [key for key, value in hook.items() if re.search('interval|iter', key) and value and not isinstance(value, bool)]
        if counts:
            return [f'{kind}.{", ".join(counts)} is left as it is: multiply it by {clock.ratio} if it counts training iterations.']
    return []


def _rescale_average(hook, clock):
    """An EMAHook then sees the model after the same steps of the optimizer. One that begins by epochs may lag by a step."""
    hook['interval'] = clock.span(hook.get('interval', 1))
    if not hook.get('begin_epoch'):
        begin = clock.moment(max(hook.get('begin_iter', 0), 1) - 1) + 1  # its first iteration copies the model; counted from 1
        if begin > 1:
            hook['begin_iter'] = begin
    kind = type_name(hook.get('ema_type', ''))
    if kind in EMA_GAMMA:
        hook['gamma'] = clock.span(hook.get('gamma', EMA_GAMMA[kind]))

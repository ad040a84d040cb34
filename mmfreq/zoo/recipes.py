"""What the steps of a data pipeline do to size and colour, in few words, so that two pipelines can be compared."""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmfreq.config.reading import type_name
from mmfreq.zoo.rows import Row

NAMES = {
    'PhotoMetricDistortion': 'photometric distortion',
    'MinIoURandomCrop': 'crops by overlap',
    'ColorJitter': 'colour jitter',
}


def _size(value) -> str:
    return 'x'.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _resize(step) -> str:
    if 'scale' not in step:
        return f'x {step["scale_factor"]}'
    return f'within {_size(step["scale"])}' if step.get('keep_ratio') else f'warp to {_size(step["scale"])}'


def _random_resize(step) -> str:
    low, high = step['ratio_range']
    return f'within {_size(step["scale"])} x {low:g}-{high:g}'


def _choice(step) -> str:
    return ' or '.join(f'({describe(branch)})' for branch in step['transforms'])


def _choice_resize(step) -> str:
    scales = [tuple(scale) for scale in step['scales']]
    shorter = sorted({min(scale) for scale in scales})
    gaps = {b - a for a, b in pairwise(shorter)}
    sides = f'{shorter[0]}-{shorter[-1]} step {gaps.pop()}' if len(gaps) == 1 and len(shorter) > 3 else '/'.join(map(str, shorter))
    return f'shorter side {sides}, longer to {max(max(scale) for scale in scales)}'


WORDS = {
    'Resize': _resize,
    'RandomResize': _random_resize,
    'RandomChoiceResize': _choice_resize,
    'RandomChoice': _choice,
    'ResizeEdge': lambda step: f'{step["edge"]} side {step["scale"]}',
    'RandomResizedCrop': lambda step: f'random area to {_size(step["scale"])}',
    'CenterCrop': lambda step: f'centre {_size(step["crop_size"])}',
    'RandomCrop': lambda step: f'crop {_size(step["crop_size"])}',
    'ResizeToMultiple': lambda step: f'up to multiples of {step["size_divisor"]}',
    'ResizeDownToMultiple': lambda step: f'down to multiples of {step["size_divisor"]}',
    'RandomFlip': lambda step: f'flip {_size(step["prob"])}',
    'RandAugment': lambda step: f'RandAugment m{step["magnitude_level"]:g}',
    'RandomErasing': lambda step: f'erasing {step["erase_prob"]:g}',
    'Pad': lambda step: f'pad to {_size(step["size"])}' if 'size' in step else f'pad to multiples of {step["size_divisor"]}',
}
PLAIN = ('Load', 'Pack')  # steps that read and hand on


def describe(pipeline) -> str:
    """The steps of a pipeline in their order; one that is not known is named by its type, so that nothing goes unseen."""
    words = []
    for step in pipeline:
        kind = type_name(step['type'])
        if kind.startswith(PLAIN):
            continue
        words.append(WORDS[kind](step) if kind in WORDS else NAMES.get(kind, kind))
    return ', '.join(words)


# The recipe that a config holds, as a flat dict of plain values that can be written to a metafile and compared.
#
# | key | value |
# |---|---|
# | optimizer, lr, weight decay | the optimizer's, for the whole batch |
# | undecayed | what the weight decay spares |
# | layer decay | kind, rate and number of layers of learning rates that fall towards the stem |
# | gpus, batch | as the file name says; all images of one step of the optimizer |
# | duration, warm-up, schedule | in epochs or iterations |
# | clip | largest norm of the gradient (L2) |
# | mixed precision, averaged weights | true or false; momentum |
# | drop path | rate of the last block |
# | training images, test images | see `pipelines`; then how the model is tested |


NONE = 'none'
GPUS = re.compile(r'_(\d+)xb(\d+)-')
CURVES = {
    'PolyLR': lambda s: f'poly {s["power"]:g} to {s.get("eta_min", 0):g}',
    'CosineAnnealingLR': lambda s: f'cosine to {s.get("eta_min", 0):g}',
    'MultiStepLR': lambda s: f'x {s.get("gamma", 0.1):g} at {", ".join(map(str, s["milestones"]))}',
    'ConstantLR': lambda s: f'x {s["factor"]:g}',
}


def read_config(path: Path) -> Config:
    """A config, whose `mmfreq` registries are then known."""
    import mmfreq.registry  # noqa: F401

    return Config.fromfile(path)


def recipe(path: Path) -> dict:
    """The recipe of a config file.

    Raises:
        ValueError: the file name does not say `_<gpus>xb<images>-`.
    """
    cfg = read_config(path)
    said = GPUS.search(path.stem)
    if not said:
        raise ValueError(f'the name of {path} does not say how many GPUs and images: expected ..._<gpus>xb<images>-...')
    wrapper, optimizer = cfg.optim_wrapper, cfg.optim_wrapper.optimizer
    part = cfg.model if 'arch' in cfg.model else cfg.model.backbone
    return {
        'optimizer': type_name(optimizer.type),
        'lr': optimizer.lr,
        'weight decay': optimizer.weight_decay,
        'undecayed': _undecayed(wrapper),
        'layer decay': _layer_decay(wrapper),
        'gpus': int(said[1]),
        'batch': int(said[1]) * cfg.train_dataloader.batch_size * wrapper.get('accumulative_counts', 1),
        'duration': _duration(cfg),
        'warm-up': _warm_up(cfg.param_scheduler),
        'schedule': _schedule(cfg.param_scheduler),
        'clip': (wrapper.get('clip_grad') or {}).get('max_norm', NONE),
        'mixed precision': type_name(wrapper.get('type')) == 'AmpOptimWrapper',
        'averaged weights': _averaging(cfg),
        'drop path': part.get('drop_path_rate', 0.0),
        'training images': describe(_train_pipeline(cfg.train_dataloader.dataset)),
        'test images': ', '.join(filter(None, [describe(cfg.test_dataloader.dataset.pipeline), _test_mode(cfg.model)])),
    }


def _undecayed(wrapper) -> str:
    rules = wrapper.get('paramwise_cfg') or {}
    if 'LayerDecay' in str(wrapper.get('constructor')):
        return 'vectors and biases'
    if not rules.get('flat_decay_mult', 1.0):
        return 'vectors and biases'
    spared = [what for what, key in (('norms', 'norm_decay_mult'), ('biases', 'bias_decay_mult')) if rules.get(key, 1.0) == 0]
    return ' and '.join(spared) or 'nothing'


def _layer_decay(wrapper) -> str:
    rules = wrapper.get('paramwise_cfg') or {}
    heads = {key: rule.lr_mult for key, rule in rules.get('custom_keys', {}).items() if 'lr_mult' in rule}
    if 'decay_rate' in rules:
        return f'{rules.decay_type} {rules.decay_rate:g}, {rules.num_layers} layers'
    return ', '.join(f'{key} x {mult:g}' for key, mult in heads.items()) or NONE


def _duration(cfg) -> str:
    loop = cfg.train_cfg
    return f'{loop.max_iters} iterations' if 'max_iters' in loop else f'{loop.max_epochs} epochs'


def _unit(scheduler) -> str:
    return 'epochs' if scheduler.get('by_epoch', True) else 'iterations'


def _warm_up(schedulers) -> str:
    """mmengine's LinearLR is at its end value one step before `end`; one converted to iterations, at the end of the epoch."""
    for each in schedulers or ():
        if type_name(each['type']) == 'LinearLR' and each.get('start_factor', 1 / 3) < 1:
            steps = each['end'] - each.get('begin', 0) - (not each.get('convert_to_iter_based', False))
            return f'{steps} {_unit(each)}'
    return NONE


def _schedule(schedulers) -> str:
    words = []
    for each in schedulers or ():
        kind = type_name(each['type'])
        if kind == 'LinearLR' and each.get('start_factor', 1 / 3) < 1:
            continue
        begin = each.get('begin', 0)
        words.append(CURVES[kind](each) + (f', from {begin} {_unit(each)} on' if begin else '') if kind in CURVES else kind)
    return '; '.join(words) or 'constant'


def _averaging(cfg):
    hooks = [hook for hook in cfg.get('custom_hooks') or () if type_name(hook['type']) == 'EMAHook']
    return hooks[0].momentum if hooks else NONE


def _train_pipeline(dataset):
    while 'pipeline' not in dataset:  # a wrapper of one data set, or of several that are treated alike
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset.pipeline


def _test_mode(model) -> str:
    test = model.get('test_cfg') or {}
    if test.get('mode') == 'slide':
        return f'slide {"x".join(map(str, test.crop_size))} by {"x".join(map(str, test.stride))}'
    return test.get('mode', '')


# Each config's recipe against the recorded one. Needs neither data nor weights.


MISSING = 'missing'


@dataclass(frozen=True)
class Difference:
    """A key of the recipe in which a config and the record differ."""

    key: str
    config: Any
    recorded: Any


@dataclass(frozen=True)
class Audit:
    """What comparing one row gave.

    Attributes:
        compared: how many keys a source gives, and ours.
    """

    row: Row
    compared: tuple[int, int]
    differences: tuple[Difference, ...]

    @property
    def agrees(self) -> bool:
        return not self.differences


def audit(row: Row) -> Audit:
    """Compare a row's config with its recorded recipe; a key that only one of them has is a difference.

    Raises:
        ValueError: as in `facts.recipe`.
        FileNotFoundError: the config is not there.
    """
    found, recorded = recipe(row.config), row.recipe
    keys = [*recorded, *(key for key in found if key not in recorded)]
    differences = tuple(
        Difference(key, found.get(key, MISSING), recorded.get(key, MISSING))
        for key in keys
        if found.get(key, MISSING) != recorded.get(key, MISSING)
    )
    return Audit(row, (len(recorded) - len(row.ours), len(row.ours)), differences)

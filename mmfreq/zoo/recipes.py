"""The recipe of a config as a flat dict of plain values, and its comparison with the recorded one. Needs neither data nor weights.

| key | value |
|---|---|
| optimizer, lr, weight decay | of the optimizer, for the whole batch |
| undecayed | parameters without weight decay |
| layer decay | type, rate and number of layers of layer-wise learning rates |
| gpus, batch | as in the file name; images in one step of the optimizer |
| duration, warm-up, schedule | in epochs or iterations |
| clip | maximum L2 norm of the gradient |
| mixed precision, averaged weights | true or false; momentum |
| drop path | rate of the last block |
| training images, test images | what the pipeline does to size and color, see `describe`; for tests also the mode |
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmfreq.config.reading import type_name
from mmfreq.zoo.rows import Row

NONE = 'none'
GPUS = re.compile(r'_(\d+)xb(\d+)-')
CURVES = {
    'PolyLR': lambda s: f'poly {s["power"]:g} to {s.get("eta_min", 0):g}',
    'CosineAnnealingLR': lambda s: f'cosine to {s.get("eta_min", 0):g}',
    'MultiStepLR': lambda s: f'x {s.get("gamma", 0.1):g} at {", ".join(map(str, s["milestones"]))}',
    'ConstantLR': lambda s: f'x {s["factor"]:g}',
}
MISSING = 'missing'


@dataclass(frozen=True)
class Difference:
    """A key of the recipe in which the config and the record differ."""

    key: str
    config: Any
    recorded: Any


@dataclass(frozen=True)
class Audit:
    """The comparison of a row's config with its recorded recipe.

    Attributes:
        compared: number of keys that a source gives, and number of own choices.
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
        ValueError: as in `recipe`.
        FileNotFoundError: the config does not exist.
    """
    found, recorded = recipe(row.config), row.recipe
    keys = [*recorded, *(key for key in found if key not in recorded)]
    differences = tuple(
        Difference(key, found.get(key, MISSING), recorded.get(key, MISSING))
        for key in keys
        if found.get(key, MISSING) != recorded.get(key, MISSING)
    )
    return Audit(row, (len(recorded) - len(row.own_choices), len(row.own_choices)), differences)


def read_config(path: Path) -> Config:
    """A config; registers the types of mmfreq."""
    import mmfreq.registry  # noqa: F401

    return Config.fromfile(path)


def recipe(path: Path) -> dict:
    """The recipe of a config file.

    Raises:
        ValueError: the file name does not contain `_<gpus>xb<images>-`.
    """
    cfg = read_config(path)
    gpus = GPUS.search(path.stem)
    if not gpus:
        raise ValueError(f'Expected a file name with the number of GPUs and images, ..._<gpus>xb<images>-..., got {path}.')
    wrapper, optimizer = cfg.optim_wrapper, cfg.optim_wrapper.optimizer
    part = cfg.model if 'arch' in cfg.model else cfg.model.backbone
    return {
        'optimizer': type_name(optimizer.type),
        'lr': optimizer.lr,
        'weight decay': optimizer.weight_decay,
        'undecayed': _undecayed(wrapper),
        'layer decay': _layer_decay(wrapper),
        'gpus': int(gpus[1]),
        'batch': int(gpus[1]) * cfg.train_dataloader.batch_size * wrapper.get('accumulative_counts', 1),
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
    spared = [name for name, key in (('norms', 'norm_decay_mult'), ('biases', 'bias_decay_mult')) if rules.get(key, 1.0) == 0]
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
    """mmengine's LinearLR reaches its final value one step before `end`; converted to iterations, at the end of the epoch."""
    for each in schedulers or ():
        if type_name(each['type']) == 'LinearLR' and each.get('start_factor', 1 / 3) < 1:
            steps = each['end'] - each.get('begin', 0) - (not each.get('convert_to_iter_based', False))
            return f'{steps} {_unit(each)}'
    return NONE


def _schedule(schedulers) -> str:
    words = []
    for each in schedulers or ():
        name = type_name(each['type'])
        if name == 'LinearLR' and each.get('start_factor', 1 / 3) < 1:
            continue
        begin = each.get('begin', 0)
        words.append(CURVES[name](each) + (f', from {begin} {_unit(each)} on' if begin else '') if name in CURVES else name)
    return '; '.join(words) or 'constant'


def _averaging(cfg):
    hooks = [hook for hook in cfg.get('custom_hooks') or () if type_name(hook['type']) == 'EMAHook']
    return hooks[0].momentum if hooks else NONE


def _train_pipeline(dataset):
    while 'pipeline' not in dataset:  # a wrapper of one dataset, or of several with the same pipeline
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset.pipeline


def _test_mode(model) -> str:
    test = model.get('test_cfg') or {}
    if test.get('mode') == 'slide':
        return f'slide {"x".join(map(str, test.crop_size))} by {"x".join(map(str, test.stride))}'
    return test.get('mode', '')


def describe(pipeline) -> str:
    """The steps of a pipeline that change size or color, in order. Unknown steps appear by their type, so none is missed."""
    names = [(type_name(step['type']), step) for step in pipeline]
    return ', '.join(STEPS[name](step) if name in STEPS else name for name, step in names if not name.startswith(SKIPPED))


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


STEPS = {
    'PhotoMetricDistortion': lambda step: 'photometric distortion',
    'MinIoURandomCrop': lambda step: 'crops by overlap',
    'ColorJitter': lambda step: 'color jitter',
    'Resize': _resize,
    'RandomResize': _random_resize,
    'RandomChoiceResize': _choice_resize,
    'RandomChoice': _choice,
    'ResizeEdge': lambda step: f'{step["edge"]} side {step["scale"]}',
    'RandomResizedCrop': lambda step: f'random area to {_size(step["scale"])}',
    'CenterCrop': lambda step: f'center {_size(step["crop_size"])}',
    'RandomCrop': lambda step: f'crop {_size(step["crop_size"])}',
    'ResizeToMultiple': lambda step: f'up to multiples of {step["size_divisor"]}',
    'ResizeDownToMultiple': lambda step: f'down to multiples of {step["size_divisor"]}',
    'RandomFlip': lambda step: f'flip {_size(step["prob"])}',
    'RandAugment': lambda step: f'RandAugment m{step["magnitude_level"]:g}',
    'RandomErasing': lambda step: f'erasing {step["erase_prob"]:g}',
    'Pad': lambda step: f'pad to {_size(step["size"])}' if 'size' in step else f'pad to multiples of {step["size_divisor"]}',
}
SKIPPED = ('Load', 'Pack')  # steps that only read or pack

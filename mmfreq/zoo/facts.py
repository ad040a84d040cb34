"""The recipe that a config holds, as a flat dict of plain values that can be written to a metafile and compared.

| key | value |
|---|---|
| optimizer, lr, weight decay | the optimizer's, for the whole batch |
| undecayed | what the weight decay spares |
| layer decay | kind, rate and number of layers of learning rates that fall towards the stem |
| gpus, batch | as the file name says; all images of one step of the optimizer |
| duration, warm-up, schedule | in epochs or iterations |
| clip | largest norm of the gradient (L2) |
| mixed precision, averaged weights | true or false; momentum |
| drop path | rate of the last block |
| training images, test images | see `pipelines`; then how the model is tested |
"""

import re
from pathlib import Path

from mmengine.config import Config

from mmfreq.engine.machine import type_name
from mmfreq.zoo.pipelines import describe

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

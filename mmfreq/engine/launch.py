"""Refuse mmengine's sharded training before it starts: it trains, and what it saves cannot be resumed."""

import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from mmfreq.config.options import merge_options
from mmfreq.config.reading import absolute, type_name
from mmfreq.engine.evaluation import draw_predictions, use_tta, write_predictions
from mmfreq.engine.failure_log import failures_logged
from mmfreq.engine.processes import fit_loaders, fit_norms, fit_precision, fit_processes, init_cpu_group
from mmfreq.engine.resume.start import (
    check_file,
    check_pretrained,
    check_work_dir,
    set_start,
    warn_of_overwriting,
    warn_of_random_backbone,
)
from mmfreq.engine.resume.stop_signal import stop_requests
from mmfreq.errors import UserError
from mmfreq.preflight import check_data, check_run
from mmfreq.speed.compiling import compile_blocks
from mmfreq.weights.download import local_file


def refuse_sharding(cfg):
    """Raise if a Config asks for mmengine's `FSDPStrategy`.

    It trains (`tests/tools/test_distributed_options.py`; as one process does, when it was compared), but mmengine 0.10.7 hands the
    optimizer's state to torch in the order of an older release, and its gradient clipping takes the norm of one shard for all.

    Raises:
        UserError: it does.
    """
    strategy = cfg.get('strategy') or {}
    if isinstance(strategy, dict) and type_name(strategy.get('type')) == 'FSDPStrategy':
        raise UserError(
            "strategy.type='FSDPStrategy' is not supported: mmengine saves such a run and cannot resume it (TypeError: unhashable "
            "type: 'dict'). For less memory set model.backbone.with_cp=True, and a smaller batch_size with "
            'optim_wrapper.accumulative_counts; for a model that does not fit then, docs/performance.md has a recipe with '
            "torch's fully_shard."
        )


# Put the parts of ours that make a run safe to interrupt in the place of mmengine's own, in a config.


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


# Train or test a config: everything that `tools/train.py` and `tools/test.py` do, from Python.
#
# `prepare_*` only read and return a Config; nothing is written before the Runner is built, so that a refused run loses nothing.


GUARDS = ('mmfreq.InputGuardHook', 'mmfreq.CheckpointGuardHook', 'mmfreq.LossGuardHook')


def train(config, **options):
    """Train a segmentation, detection or classification config; options and errors as in `prepare_train`.

    Returns:
        The Runner, after training.
    """
    with failures_logged(), stop_requests():
        runner = build_runner(prepare_train(config, **options))
        runner.train()
    return runner


def evaluate(config, checkpoint, **options):
    """Evaluate a checkpoint, and return mmengine's metrics; options and errors as in `prepare_test`."""
    with failures_logged():
        return build_runner(prepare_test(config, checkpoint, **options)).test()


def prepare_train(config, work_dir=None, resume=None, amp=False, launcher='none', seed=None, cfg_options=None, report=None):
    """The Config to train, fitted to this machine and checked.

    Args:
        config: path of a config file.
        work_dir: default: the config's own, else `work_dirs/<name of the config>`.
        resume: None, 'latest' (of the work directory), 'auto' (the latest if there is one), or the path of a checkpoint.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        cfg_options: overriding values by dotted key.
        report: an `mmfreq.preflight.Report` that the checks fill.

    Raises:
        UserError: something named here, or the data, or the work directory, is not as it must be.
        CheckpointError: a checkpoint to start from cannot be read.
    """
    cfg = _prepare(config, 'work_dirs/{stem}', work_dir, launcher, cfg_options)
    refuse_sharding(cfg)
    if seed is not None:
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
    fit_precision(cfg, amp)
    make_resumable(cfg)
    check_work_dir(cfg)
    set_start(cfg, resume)
    check_pretrained(cfg.model)
    check_run(cfg, report)
    if not cfg.get('resume'):
        warn_of_overwriting(cfg)
        warn_of_random_backbone(cfg)
    return cfg


def prepare_test(
    config, checkpoint, work_dir=None, tta=False, out=None, show_dir=None, launcher='none', cfg_options=None, plain=False
):
    """The Config to test, fitted to this machine and checked. Arguments and errors as in `prepare_train`, and:

    Args:
        work_dir: where logs go; default `work_dirs/<name of the config>/test`, so that the training's folder stays as it is.
        tta: use `tta_model` and `tta_pipeline` of the config.
        out: folder for the predictions.
        show_dir: folder for pictures of them.
        plain: test the model as it is, not the copy that `mmfreq.optimize` makes of it.
    """
    cfg = _prepare(config, 'work_dirs/{stem}/test', work_dir, launcher, cfg_options)
    cfg.resume, cfg.load_from = False, str(local_file(checkpoint))
    fit_precision(cfg, amp=False)
    check_work_dir(cfg)
    check_file(cfg.load_from)
    check_data(cfg, ('test_dataloader',))
    if tta:
        use_tta(cfg)
    if not (plain or cfg.get('compile_blocks') or cfg.get('compile')):  # what is compiled is tested as it is
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='mmfreq.OptimizeHook')]
    if out:
        write_predictions(cfg, out)
    if show_dir:
        draw_predictions(cfg, show_dir)
    return cfg


def build_runner(cfg):
    """A Runner for a prepared Config; makes the work directory, and the process group of a distributed run.

    A field `compile_blocks` of the config, True or options of `torch.compile`, has the model go through `mmfreq.compile_blocks`.
    """
    if cfg.get('launcher', 'none') != 'none' and not torch.cuda.is_available():
        init_cpu_group(cfg.launcher, cfg.env_cfg.dist_cfg)
    # mmengine finds a visualizer again by its name, so that a second run of this process would draw into the first one's folder
    for kind in (Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    options = cfg.get('compile_blocks', False)
    if options:
        compile_blocks(runner.model, **({} if options is True else options))
    return runner


def load_config(path, cfg_options=None):
    """Read a config file and put the options in.

    Raises:
        UserError: there is no such file, or it defines no model.
    """
    if not absolute(path).is_file():
        raise UserError(f'the config {str(path)!r} is not there: looked at {absolute(path)}. Give the path of a config file.')
    cfg = Config.fromfile(path)
    merge_options(cfg, cfg_options)
    if not cfg.get('model'):
        raise UserError(f'the config {path} defines no `model`: expected a whole config, not one of the parts in _base_.')
    return cfg


def _prepare(config, default_dir, work_dir, launcher, cfg_options):
    cfg = load_config(config, cfg_options)
    cfg.work_dir = str(work_dir or cfg.get('work_dir') or default_dir.format(stem=Path(config).stem))
    if launcher != 'none':
        os.environ.setdefault('LOCAL_RANK', '0')
    fit_processes(cfg, launcher)
    fit_norms(cfg, distributed=launcher != 'none')
    fit_loaders(cfg)
    hooks = list(cfg.get('custom_hooks') or [])
    present = [hook.get('type') if isinstance(hook, dict) else type(hook).__name__ for hook in hooks]
    cfg.custom_hooks = hooks + [{'type': guard} for guard in GUARDS if guard not in present]
    return cfg

"""Train or test a config from Python, as `tools/train.py` and `tools/test.py` do.

This file lists every step between a config file and the running Runner, in order. The steps of `train`:

| step | function | file |
|---|---|---|
| read the config, merge the options | `load_config`, `merge_options` | here, `config/options.py` |
| fit it to the processes and devices | `fit_processes`, `fit_norms`, `fit_loaders` | `engine/processes.py` |
| add the hooks that guard the run | `add_hooks`; the hooks | here; `engine/hooks.py` |
| refuse sharded training | `refuse_sharding` | `engine/processes.py` |
| set the seed, mixed precision | `prepare_train`, `fit_precision` | here, `engine/processes.py` |
| replace mmengine's loop and checkpoint hook, add the stop hook | `make_resumable`, `add_hooks` | `engine/resume/loops.py`, here |
| refuse a work directory of another config | `check_work_dir` | `engine/resume/start.py` |
| choose and read the checkpoint to start from | `set_start`, `drop_pretrained`, `check_pretrained` | `engine/resume/start.py` |
| validate versions, data, weights, disk, memory | `check_run` | `preflight/run.py` |
| download weights that are not here | `fetch_weights` | `engine/resume/start.py` |
| warn of overwritten files | `warn_of_overwriting` | `engine/resume/start.py` |
| log what the backbone starts from | `describe_start` | `weights/in_configs.py` |
| build the Runner and its process group | `build_runner`, `init_cpu_group` | here, `engine/processes.py` |
| train | `Runner.train`, which runs one of the loops | `engine/resume/loops.py` |
| close the process group at exit (the tools) | `group_closed_at_exit` | `engine/processes.py` |

Around them, `failures_logged` (`engine/failure_log.py`) writes an exception to the run's log, and `stop_requests`
(`engine/resume/stop_signal.py`) lets SIGTERM end the run after saving. `prepare_train` and `prepare_test` only read: nothing is
written before the Runner is built, so that a refused run loses nothing.
"""

import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from mmfreq.config.options import merge_options
from mmfreq.config.reading import absolute
from mmfreq.engine.evaluation import draw_predictions, use_tta, write_predictions
from mmfreq.engine.failure_log import failures_logged
from mmfreq.engine.processes import fit_loaders, fit_norms, fit_precision, fit_processes, init_cpu_group, refuse_sharding
from mmfreq.engine.resume.loops import make_resumable
from mmfreq.engine.resume.start import (
    check_file,
    check_pretrained,
    check_work_dir,
    fetch_weights,
    set_start,
    warn_of_overwriting,
)
from mmfreq.engine.resume.stop_signal import stop_requests
from mmfreq.errors import UserError
from mmfreq.log import log_once
from mmfreq.preflight import check_run, check_test
from mmfreq.speed.compiling import compile_blocks
from mmfreq.weights.in_configs import describe_start, drop_pretrained
from mmfreq.weights.store import local_file

GUARDS = ('mmfreq.InputGuardHook', 'mmfreq.CheckpointGuardHook', 'mmfreq.LossGuardHook')
STOP_HOOK = 'mmfreq.StopInValidationHook'


def train(config, **options):
    """Train a segmentation, detection or classification config.

    Args:
        config: path of a config file.
        **options: as in `prepare_train`, with its errors.

    Returns:
        The Runner, after training. The process group stays open: see `group_closed_at_exit`.
    """
    with failures_logged(), stop_requests():
        cfg = prepare_train(config, **options)
        runner = build_runner(cfg)
        log_once(describe_start(cfg))  # again, into the file
        runner.train()
    return runner


def evaluate(config, checkpoint, **options):
    """Test a checkpoint, and return mmengine's metrics. The process group stays open: see `group_closed_at_exit`.

    Args:
        config: path of a config file.
        checkpoint: path or address of a file with every weight of the model.
        **options: as in `prepare_test`, with its errors.
    """
    with failures_logged():
        return build_runner(prepare_test(config, checkpoint, **options)).test()


def prepare_train(
    config,
    work_dir=None,
    resume=None,
    amp=False,
    launcher='none',
    seed=None,
    cfg_options=None,
    report=None,
    from_scratch=False,
):
    """Return the validated Config of a training run, fitted to the processes and devices.

    Args:
        config: path of a config file.
        work_dir: default: the config's own, or else `work_dirs/<name of the config>`.
        resume: None, 'latest' (of the work directory), 'auto' (the latest if there is one), or the path of a checkpoint.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        cfg_options: overrides by dotted key.
        report: an `mmfreq.preflight.Report` that the checks fill.
        from_scratch: start from random values, whatever pretrained weights the config names.

    Raises:
        UserError: an argument, the config, the data or the work directory is invalid.
        CheckpointError: a checkpoint to start from cannot be read.
    """
    cfg = _load_and_fit(config, 'work_dirs/{stem}', work_dir, launcher, cfg_options)
    refuse_sharding(cfg)
    if seed is not None:
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
    fit_precision(cfg, amp)
    make_resumable(cfg)
    add_hooks(cfg, STOP_HOOK)
    check_work_dir(cfg)
    set_start(cfg, resume)
    if from_scratch or cfg.get('resume'):  # the checkpoint to resume from has all weights
        drop_pretrained(cfg.model)
    check_pretrained(cfg.model)
    check_run(cfg, report)
    fetch_weights(cfg)
    if not cfg.get('resume'):
        warn_of_overwriting(cfg)
    log_once(describe_start(cfg))
    return cfg


def prepare_test(
    config, checkpoint, work_dir=None, tta=False, out=None, show_dir=None, launcher='none', cfg_options=None, plain=False
):
    """Return the validated Config of a test. Arguments and errors as in `prepare_train`, and:

    Args:
        work_dir: folder for logs; default `work_dirs/<name of the config>/test`, so that the training's folder stays unchanged.
        tta: use `tta_model` and `tta_pipeline` of the config; a detector of boxes without them is tested with flips.
        out: folder for predictions.
        show_dir: folder for images with predictions drawn on them.
        plain: test the model itself, not its copy by `mmfreq.optimize`.
    """
    cfg = _load_and_fit(config, 'work_dirs/{stem}/test', work_dir, launcher, cfg_options)
    cfg.resume, cfg.load_from = False, str(local_file(checkpoint))
    fit_precision(cfg, amp=False)
    check_work_dir(cfg)
    check_file(cfg.load_from)
    check_test(cfg)
    if tta:
        use_tta(cfg)
    if not (plain or cfg.get('compile_blocks') or cfg.get('compile')):  # a compiled model is tested as it is
        add_hooks(cfg, 'mmfreq.OptimizeHook')
    if out:
        write_predictions(cfg, out)
    if show_dir:
        draw_predictions(cfg, show_dir)
    return cfg


def _load_and_fit(config, default_dir, work_dir, launcher, cfg_options):
    """The steps that training and testing share."""
    cfg = load_config(config, cfg_options)
    cfg.work_dir = str(work_dir or cfg.get('work_dir') or default_dir.format(stem=Path(config).stem))
    if launcher != 'none':
        os.environ.setdefault('LOCAL_RANK', '0')
    fit_processes(cfg, launcher)
    fit_norms(cfg, distributed=launcher != 'none')
    fit_loaders(cfg)
    add_hooks(cfg, *GUARDS)
    return cfg


def load_config(path, cfg_options=None):
    """Read a config file and merge the options.

    Raises:
        UserError: the file does not exist, or defines no model.
    """
    if not absolute(path).is_file():
        raise UserError(f'The config {str(path)!r} does not exist: looked for {absolute(path)}. Give the path of a config file.')
    cfg = Config.fromfile(path)
    merge_options(cfg, cfg_options)
    if not cfg.get('model'):
        raise UserError(f'The config {path} defines no `model`. Give a complete config, not one of the parts in _base_.')
    return cfg


def add_hooks(cfg, *types):
    """Append hooks to `custom_hooks`, unless the config has them."""
    hooks = list(cfg.get('custom_hooks') or [])
    present = [hook.get('type') if isinstance(hook, dict) else type(hook).__name__ for hook in hooks]
    cfg.custom_hooks = hooks + [{'type': name} for name in types if name not in present]


def build_runner(cfg):
    """Build the Runner of a prepared Config; makes the work directory, and the process group of a distributed run.

    If the config has a field `compile_blocks`, True or options of `torch.compile`, the model goes through `mmfreq.compile_blocks`.
    """
    if cfg.get('launcher', 'none') != 'none' and not torch.cuda.is_available():
        init_cpu_group(cfg.launcher, cfg.env_cfg.dist_cfg)
    # mmengine returns an existing visualizer by name: a second run of this process would draw into the folder of the first one
    for cls in (Visualizer, *Visualizer.__subclasses__()):
        cls._instance_dict.clear()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    options = cfg.get('compile_blocks', False)
    if options:
        compile_blocks(runner.model, **({} if options is True else options))
    return runner

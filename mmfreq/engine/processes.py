"""Fit a config to the processes and devices of a run: launcher and process group, norms, precision, data loaders.

Each `fit_*` function changes a config in place and logs it once. None of them touches CUDA beyond asking whether it is available.
"""

import atexit
import datetime
import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist

from mmfreq.config.reading import type_name
from mmfreq.errors import UserError
from mmfreq.log import log_once
from mmfreq.torchrun import STATUS

# the variables in which each launcher passes the rank, the number of processes and the local rank
VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
SYNC_NORMS = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm', 'NaiveSyncBatchNorm')


def fit_processes(cfg, launcher):
    """Set the launcher; without a GPU use gloo, and wrap the model without device ids.

    mmengine always passes device ids to DDP, which refuses them for a CPU model.
    """
    cfg.launcher = launcher
    if launcher == 'none' or torch.cuda.is_available():
        return
    env = cfg.setdefault('env_cfg', {})
    env['dist_cfg'] = {**(env.get('dist_cfg') or {}), 'backend': 'gloo'}
    wrapper = cfg.get('model_wrapper_cfg') or {
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
    }
    cfg.model_wrapper_cfg = {'type': 'MMDistributedDataParallel', **wrapper, 'device_ids': None}


def fit_norms(cfg, distributed):
    """Replace SyncBN by BN in `cfg.model` where it cannot run: in a single process, and without a GPU."""
    if distributed and torch.cuda.is_available():
        return
    cfg.sync_bn = None
    count = sync_to_batch_norm(cfg.model)
    if count:
        why = 'there is no GPU' if distributed else 'this is not a distributed run'
        log_once(f'SyncBN -> BN in {count} places of the model, because {why}.')


def sync_to_batch_norm(node):
    """Replace every synchronized batch norm in a nested config by 'BN', in place; returns their number."""
    if isinstance(node, dict):
        is_sync = 'type' in node and type_name(node['type']) in SYNC_NORMS
        if is_sync:
            node['type'] = 'BN'
        return is_sync + sum(sync_to_batch_norm(child) for child in node.values())
    return sum(sync_to_batch_norm(child) for child in node) if isinstance(node, (list, tuple)) else 0


def fit_precision(cfg, amp):
    """Turn mixed precision on (`amp`), or off if the config asks for it and there is no accelerator.

    Raises:
        UserError: `amp` without an accelerator, or with an unsupported optimizer wrapper.
    """
    wrapper = cfg.get('optim_wrapper')
    name = type_name(wrapper.get('type', 'OptimWrapper')) if wrapper else None
    if amp:
        if not has_amp_device():
            raise UserError('--amp needs an accelerator (CUDA, NPU, MLU or MUSA), and none was found. Remove --amp.')
        if name not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise UserError(f"--amp turns an 'OptimWrapper' into an 'AmpOptimWrapper', but this config has {name!r}.")
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
    elif name == 'AmpOptimWrapper' and not has_amp_device():
        wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        log_once('Mixed precision is off, because there is no accelerator: training runs in float32.')


def has_amp_device():
    """Whether there is an accelerator on which mmengine runs mixed precision."""
    from mmengine.device import is_cuda_available, is_mlu_available, is_musa_available, is_npu_available

    return any(found() for found in (is_cuda_available, is_mlu_available, is_musa_available, is_npu_available))


def fit_loaders(cfg):
    """Turn `persistent_workers` off in loaders without workers, as torch requires; for mmpretrain, set its `collate_fn`."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader and cfg.get('default_scope') == 'mmpretrain':
            loader.setdefault('collate_fn', {'type': 'default_collate'})  # as its tools do; mmengine's default makes lists
        if loader and not loader.get('num_workers') and loader.get('persistent_workers'):
            loader.persistent_workers = False
            log_once(f'{name}.persistent_workers is off, because it has no workers.', level=logging.DEBUG)


def refuse_sharding(cfg):
    """Raise if a Config asks for mmengine's `FSDPStrategy`: it trains, but cannot resume.

    mmengine 0.10.7 passes the optimizer's state to torch in an outdated argument order, and its gradient clipping takes the norm of
    one shard for that of the whole model. `tests/tools/test_distributed_options.py` shows both.

    Raises:
        UserError: it does.
    """
    strategy = cfg.get('strategy') or {}
    if isinstance(strategy, dict) and type_name(strategy.get('type')) == 'FSDPStrategy':
        raise UserError(
            "strategy.type='FSDPStrategy' is not supported: mmengine saves such a run but cannot resume it (TypeError: unhashable "
            "type: 'dict'). To save memory, set model.backbone.with_cp=True, and a smaller batch_size with "
            'optim_wrapper.accumulative_counts. If the model still does not fit, use the recipe for fully_shard in '
            'docs/performance.md.'
        )


def init_cpu_group(launcher, dist_cfg):
    """Join the launcher's processes into a gloo group, unless there is a group.

    mmengine calls `torch.cuda.set_device` before it makes a group, whatever the backend; it keeps an existing group.

    Args:
        launcher: 'pytorch', 'slurm' or 'mpi'.
        dist_cfg: `env_cfg.dist_cfg` of the config; `timeout` in seconds and `port` are used.

    Raises:
        UserError: the launcher's environment variables are not set.
    """
    if dist.is_initialized():
        return
    missing = [name for name in VARIABLES[launcher] if name not in os.environ]
    if missing:
        raise UserError(
            f'--launcher {launcher} expects the environment variables {", ".join(VARIABLES[launcher])}; '
            f'{", ".join(missing)} not set. Start with tools/dist_train.sh or the launcher itself, or remove --launcher.'
        )
    for name, source in zip(VARIABLES['pytorch'], VARIABLES[launcher]):
        os.environ[name] = os.environ[source]
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_slurm_host() if launcher == 'slurm' else '127.0.0.1'
    os.environ.setdefault('MASTER_PORT', str(dist_cfg.get('port', 29500)))
    timeout = datetime.timedelta(seconds=dist_cfg.get('timeout', 1800))
    dist.init_process_group('gloo', timeout=timeout)


@contextmanager
def group_closed_at_exit():
    """Keep an open process group from aborting this process (status -6) while Python shuts down.

    A thread of an open gloo group aborts the process when it frees a Python object during the interpreter's shutdown. If the
    context ended without an error, or with a stop on request, the group is closed when Python exits. After an error it cannot be
    closed: its other processes may be gone, and NCCL would wait for them. Then the process ends with its status, but without that
    shutdown. Enter it outside of `short_user_errors`, whose status it sees.
    """
    failures = []
    atexit.register(_end_if_failed, failures)  # before the run, so that it is called after all that the run registers
    try:
        yield
    except BaseException as error:
        status = _status_of(error)
        if status != STATUS and dist.is_initialized():
            failures.append(status)
        raise
    finally:
        if not failures:
            atexit.register(close_group)


def close_group():
    """Close the process group, if there is one, and end its threads, which a Runner in reference cycles would keep."""
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()


def _status_of(error):
    """The exit status that Python gives a process which ends with an error."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def _end_if_failed(failures):
    """End the process at once, with the status of the failure, if there was one. Python has printed the error by then."""
    if not failures or not dist.is_initialized():
        return
    for process in multiprocessing.active_children():  # data workers
        process.terminate()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or nobody reads it
            stream.flush()
    os._exit(failures[-1])


def _first_slurm_host():
    command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]

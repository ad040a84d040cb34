"""The process group of a distributed run without GPUs.

mmengine calls `torch.cuda.set_device` before it makes a group, whatever the backend; here the group is made first, and
mmengine, which asks whether there is one, leaves it alone.
"""

import datetime
import logging
import os
import subprocess

import torch
import torch.distributed as dist

from mmfreq.config.reading import type_name
from mmfreq.errors import UserError
from mmfreq.log import log_once

# what each launcher calls the rank, the number of processes and the rank on this machine
VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}


def init_cpu_group(launcher, dist_cfg):
    """Join the launcher's processes into a gloo group; does nothing if there is a group already.

    Args:
        launcher: 'pytorch', 'slurm' or 'mpi'.
        dist_cfg: `env_cfg.dist_cfg` of the config; `timeout` in seconds and `port` are used.

    Raises:
        UserError: the variables that the launcher sets are not there.
    """
    if dist.is_initialized():
        return
    missing = [name for name in VARIABLES[launcher] if name not in os.environ]
    if missing:
        raise UserError(
            f'--launcher {launcher} expects the environment variables {", ".join(VARIABLES[launcher])}, and '
            f'{", ".join(missing)} not set: start through tools/dist_train.sh or the launcher itself, or leave --launcher out.'
        )
    for name, source in zip(VARIABLES['pytorch'], VARIABLES[launcher]):
        os.environ[name] = os.environ[source]
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_slurm_host() if launcher == 'slurm' else '127.0.0.1'
    os.environ.setdefault('MASTER_PORT', str(dist_cfg.get('port', 29500)))
    timeout = datetime.timedelta(seconds=dist_cfg.get('timeout', 1800))
    dist.init_process_group('gloo', timeout=timeout)


def _first_slurm_host():
    hosts = subprocess.run(
        ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']], capture_output=True, text=True, check=True
    )
    return hosts.stdout.split()[0]


# Fit a config to the machine it runs on: normalisation, precision, processes without GPUs, data workers.
#
# Each function changes a config in place and says so in the log once. None of them touches CUDA beyond asking whether it is
# there.


SYNC_NORMS = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm', 'NaiveSyncBatchNorm')


def has_amp_device():
    """Whether there is an accelerator on which mmengine runs mixed precision."""
    from mmengine.device import is_cuda_available, is_mlu_available, is_musa_available, is_npu_available

    return any(found() for found in (is_cuda_available, is_mlu_available, is_musa_available, is_npu_available))


def sync_to_batch_norm(node):
    """Replace every synchronised batch norm in a nested config by 'BN', in place; returns how many there were."""
    if isinstance(node, dict):
        here = 'type' in node and type_name(node['type']) in SYNC_NORMS
        if here:
            node['type'] = 'BN'
        return here + sum(sync_to_batch_norm(child) for child in node.values())
    return sum(sync_to_batch_norm(child) for child in node) if isinstance(node, (list, tuple)) else 0


def fit_norms(cfg, distributed):
    """SyncBN -> BN in `cfg.model` where it cannot run: in a single process, and without a GPU."""
    if distributed and torch.cuda.is_available():
        return
    cfg.sync_bn = None
    count = sync_to_batch_norm(cfg.model)
    if count:
        why = 'there is no GPU' if distributed else 'this is not a distributed run'
        log_once(f'SyncBN -> BN in {count} places of the model, as {why}.')


def fit_precision(cfg, amp):
    """Turn mixed precision on (`amp`), or off where the config asks for it and the machine has no accelerator.

    Raises:
        UserError: `amp` is asked for and there is no accelerator, or the optimizer wrapper is of another kind.
    """
    wrapper = cfg.get('optim_wrapper')
    kind = type_name(wrapper.get('type', 'OptimWrapper')) if wrapper else None
    if amp:
        if not has_amp_device():
            raise UserError('--amp needs an accelerator (CUDA, NPU, MLU or MUSA) and none was found: leave --amp out.')
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise UserError(f"--amp turns an 'OptimWrapper' into an 'AmpOptimWrapper'; this config has {kind!r}.")
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
    elif kind == 'AmpOptimWrapper' and not has_amp_device():
        wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        log_once('Mixed precision is off: no accelerator was found, training runs in float32.')


def fit_loaders(cfg):
    """`persistent_workers` off in loaders without workers, which torch refuses; mmpretrain's own way to collate, by default."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader and cfg.get('default_scope') == 'mmpretrain':
            loader.setdefault('collate_fn', {'type': 'default_collate'})  # as its tools do; mmengine's default makes lists
        if loader and not loader.get('num_workers') and loader.get('persistent_workers'):
            loader.persistent_workers = False
            log_once(f'{name}.persistent_workers is off, as it has no workers.', level=logging.DEBUG)


def fit_processes(cfg, launcher):
    """Set the launcher; without a GPU choose gloo, and wrap the model without device ids.

    mmengine passes device ids to DDP always, which refuses them for a CPU model.
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

"""Fit a config to the machine it runs on: normalisation, precision, processes without GPUs, data workers.

Each function changes a config in place and says so in the log once. None of them touches CUDA beyond asking whether it is
there.
"""

import logging

import torch

from mmfreq.engine.errors import UserError
from mmfreq.engine.notes import say

SYNC_NORMS = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm', 'NaiveSyncBatchNorm')


def has_amp_device():
    """Whether there is an accelerator on which mmengine runs mixed precision."""
    from mmengine.device import is_cuda_available, is_mlu_available, is_musa_available, is_npu_available

    return any(found() for found in (is_cuda_available, is_mlu_available, is_musa_available, is_npu_available))


def type_name(value):
    """The bare name in a `type=` field: `mmcv.SyncBN` and the class `SyncBN` are both 'SyncBN'."""
    return value.rsplit('.', 1)[-1] if isinstance(value, str) else getattr(value, '__name__', str(value))


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
        say(f'SyncBN -> BN in {count} places of the model, as {why}.')


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
        say('Mixed precision is off: no accelerator was found, training runs in float32.')


def fit_loaders(cfg):
    """`persistent_workers` off in loaders without workers, which torch refuses; mmpretrain's own way to collate, by default."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader and cfg.get('default_scope') == 'mmpretrain':
            loader.setdefault('collate_fn', {'type': 'default_collate'})  # as its tools do; mmengine's default makes lists
        if loader and not loader.get('num_workers') and loader.get('persistent_workers'):
            loader.persistent_workers = False
            say(f'{name}.persistent_workers is off, as it has no workers.', level=logging.DEBUG)


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

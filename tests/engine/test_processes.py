"""Fitting a config to processes and devices, and the process group without GPUs."""

import contextlib
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hub import get_config

from mmfreq import log
from mmfreq.engine import processes
from mmfreq.engine.launch import prepare_train
from mmfreq.engine.processes import (
    VARIABLES,
    close_group,
    fit_loaders,
    fit_norms,
    fit_precision,
    fit_processes,
    group_closed_at_exit,
    init_cpu_group,
    sync_to_batch_norm,
)
from mmfreq.errors import UserError
from mmfreq.torchrun import STATUS

ALL_VARIABLES = [name for names in VARIABLES.values() for name in names] + ['MASTER_ADDR', 'MASTER_PORT']


@pytest.fixture
def has_gpu(monkeypatch):
    return lambda found: monkeypatch.setattr(torch.cuda, 'is_available', lambda: found)


@pytest.fixture
def messages(monkeypatch):
    logged = []
    monkeypatch.setattr(processes, 'log_once', lambda message, level=None: logged.append(message))
    return logged


@pytest.mark.parametrize(('distributed', 'gpu', 'norm'), [(0, 0, 'BN'), (0, 1, 'BN'), (1, 0, 'BN'), (1, 1, 'SyncBN')])
def test_sync_norms_stay_only_in_distributed_gpu_runs(has_gpu, messages, distributed, gpu, norm):
    has_gpu(bool(gpu))
    cfg = Config(get_config('mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py').to_dict())
    cfg.sync_bn = 'torch'
    fit_norms(cfg, bool(distributed))
    parts = (cfg.model.backbone, cfg.model.decode_head, cfg.model.auxiliary_head)
    assert [part.norm_cfg.type for part in parts] == [norm] * 3
    assert cfg.sync_bn == ('torch' if norm == 'SyncBN' else None)
    assert len(messages) == (norm == 'BN') and all('in 3 places' in message for message in messages)


def test_sync_norms_are_found_in_lists_by_every_name():
    node = {'a': [{'norm_cfg': {'type': 'MMSyncBN', 'eps': 1}}, ({'type': 'mmcv.SyncBN'},)], 'b': {'type': 'LN'}, 'c': 'SyncBN'}
    assert sync_to_batch_norm(node) == 2
    assert node == {'a': [{'norm_cfg': {'type': 'BN', 'eps': 1}}, ({'type': 'BN'},)], 'b': {'type': 'LN'}, 'c': 'SyncBN'}


def test_sync_norms_are_found_everywhere_in_a_model(has_gpu, messages):
    has_gpu(False)
    sync = {'norm_cfg': {'type': 'SyncBN', 'requires_grad': True}}
    inner = {
        'backbone': dict(sync),
        'neck': [{'type': 'FPN', **sync}, dict(sync)],
        'auxiliary_head': [dict(sync)],
        'roi_head': {'bbox_head': [dict(sync), dict(sync)], 'mask_head': dict(sync)},
    }
    cfg = Config({'model': {'type': 'SegTTAModel', 'module': inner}, 'sync_bn': 'torch'})
    fit_norms(cfg, distributed=True)
    assert 'SyncBN' not in str(cfg.model) and str(cfg.model).count("'BN'") == 7
    assert len(messages) == 1 and 'in 7 places' in messages[0] and cfg.sync_bn is None


def optim(**wrapper):
    return Config({'optim_wrapper': wrapper})


def test_amp_without_an_accelerator_is_an_error(monkeypatch):
    monkeypatch.setattr(processes, 'has_amp_device', lambda: False)
    with pytest.raises(UserError, match='--amp needs an accelerator'):
        fit_precision(optim(type='OptimWrapper'), amp=True)


def test_amp_in_the_config_is_off_without_an_accelerator(monkeypatch, messages):
    monkeypatch.setattr(processes, 'has_amp_device', lambda: False)
    cfg = optim(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16', optimizer={'type': 'SGD'}, clip_grad=None)
    fit_precision(cfg, amp=False)
    assert cfg.optim_wrapper.to_dict() == {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD'}, 'clip_grad': None}
    assert len(messages) == 1


def test_amp_with_an_accelerator(monkeypatch):
    monkeypatch.setattr(processes, 'has_amp_device', lambda: True)
    cfg = optim(type='OptimWrapper')
    fit_precision(cfg, amp=True)
    assert cfg.optim_wrapper.to_dict() == {'type': 'AmpOptimWrapper', 'loss_scale': 'dynamic'}
    kept = optim(type='AmpOptimWrapper', loss_scale=512.0)
    fit_precision(kept, amp=True)
    fit_precision(kept, amp=False)
    assert kept.optim_wrapper.to_dict() == {'type': 'AmpOptimWrapper', 'loss_scale': 512.0}
    with pytest.raises(UserError, match="has 'ApexOptimWrapper'"):
        fit_precision(optim(type='ApexOptimWrapper'), amp=True)


def test_processes_without_a_gpu_use_gloo_and_no_device_ids(has_gpu):
    has_gpu(False)
    cfg = Config({'env_cfg': {'mp_cfg': {'mp_start_method': 'fork'}, 'dist_cfg': {'backend': 'nccl', 'timeout': 60}}})
    cfg.find_unused_parameters = True
    fit_processes(cfg, 'pytorch')
    assert cfg.env_cfg.to_dict() == {'mp_cfg': {'mp_start_method': 'fork'}, 'dist_cfg': {'backend': 'gloo', 'timeout': 60}}
    assert cfg.model_wrapper_cfg.device_ids is None and cfg.model_wrapper_cfg.find_unused_parameters is True
    assert cfg.launcher == 'pytorch'


@pytest.mark.parametrize(('launcher', 'gpu'), [('none', False), ('none', True), ('pytorch', True)])
def test_other_launchers_leave_the_config_unchanged(has_gpu, launcher, gpu):
    has_gpu(gpu)
    cfg = Config({'env_cfg': {'dist_cfg': {'backend': 'nccl'}}})
    fit_processes(cfg, launcher)
    assert cfg.env_cfg.dist_cfg.backend == 'nccl' and 'model_wrapper_cfg' not in cfg


def test_persistent_workers_are_off_without_workers():
    cfg = Config(
        {
            'train_dataloader': {'num_workers': 0, 'persistent_workers': True},
            'val_dataloader': {'num_workers': 2, 'persistent_workers': True},
        }
    )
    fit_loaders(cfg)
    assert (cfg.train_dataloader.persistent_workers, cfg.val_dataloader.persistent_workers) == (False, True)
    assert 'collate_fn' not in cfg.train_dataloader


def test_classification_collates_as_mmpretrain_does():
    cfg = Config({'default_scope': 'mmpretrain', 'train_dataloader': {'num_workers': 1}, 'val_dataloader': {'collate_fn': 'own'}})
    fit_loaders(cfg)
    assert cfg.train_dataloader.collate_fn.type == 'default_collate' and cfg.val_dataloader.collate_fn == 'own'


@pytest.mark.parametrize('name', ['FSDPStrategy', 'mmengine.FSDPStrategy'])
def test_fsdp_strategy_is_refused_before_anything_is_written(toy_config, tmp_path, name):
    """tests/tools/test_distributed_options.py shows that such a run cannot be resumed."""
    with pytest.raises(UserError, match=r'FSDPStrategy.*cannot resume'):
        prepare_train(toy_config, work_dir=tmp_path / 'work', cfg_options={'strategy': {'type': name}})
    assert not (tmp_path / 'work').exists()


@pytest.fixture
def environment(monkeypatch):
    for name in ALL_VARIABLES:
        monkeypatch.setenv(name, 'restored afterwards')
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize('launcher', sorted(VARIABLES))
def test_missing_launcher_variables_are_named(environment, launcher):
    environment.setenv(VARIABLES[launcher][0], '0')
    with pytest.raises(UserError, match=f'{VARIABLES[launcher][1]}, {VARIABLES[launcher][2]} not set'):
        init_cpu_group(launcher, {})


@pytest.mark.parametrize('launcher', sorted(VARIABLES))
def test_group_of_one_process_with_every_launcher(environment, launcher, free_port):
    for name, value in zip(VARIABLES[launcher], '010'):
        environment.setenv(name, value)
    environment.setenv('MASTER_ADDR', '127.0.0.1')
    init_cpu_group(launcher, {'port': free_port, 'timeout': 20})
    try:
        assert (dist.get_backend(), dist.get_rank(), dist.get_world_size()) == ('gloo', 0, 1)
        init_cpu_group(launcher, {})  # a second call keeps the group
    finally:
        dist.destroy_process_group()


def gloo_threads():
    """Names of this process's threads that belong to gloo."""
    names = [path.read_text().strip() for path in Path('/proc/self/task').glob('*/comm')]
    return [name for name in names if 'gloo' in name]


ENDS = {
    'complete': (None, None),
    'stopped on request': (SystemExit(STATUS), None),
    'user error': (SystemExit(2), 2),
    'error': (RuntimeError('lost'), 1),
    'interrupted': (KeyboardInterrupt(), 130),
}


@pytest.mark.parametrize(('end', 'status'), ENDS.values(), ids=ENDS)
def test_group_at_exit(environment, free_port, end, status):
    """It is closed after a run that did not fail; otherwise the process ends with its status and an open group."""
    for name, value in zip(VARIABLES['pytorch'], '010'):
        environment.setenv(name, value)
    environment.setenv('MASTER_ADDR', '127.0.0.1')
    at_exit, statuses = [], []
    environment.setattr(processes.atexit, 'register', lambda *call: at_exit.append(call))
    environment.setattr(processes.os, '_exit', statuses.append)
    try:
        with contextlib.nullcontext() if end is None else pytest.raises(type(end)), group_closed_at_exit():
            init_cpu_group('pytorch', {'port': free_port, 'timeout': 20})
            holder = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
            holder.cycle = [holder]  # as a Runner and its hooks
            holder(torch.ones(1, 2)).sum().backward()
            del holder
            if end is not None:
                raise end
        assert dist.is_initialized() and gloo_threads()
        for function, *arguments in reversed(at_exit):  # the order of Python's exit
            function(*arguments)
        assert statuses == ([] if status is None else [status])
        assert dist.is_initialized() == (status is not None)
    finally:
        close_group()
    assert not dist.is_initialized() and not gloo_threads()


@pytest.mark.parametrize('name', log.RANK_VARIABLES)
def test_only_the_first_process_logs(environment, name):
    messages = []
    environment.setattr(log, 'print_log', lambda message, **_: messages.append(message))
    log.log_once('single')
    environment.setenv(name, '0')
    log.log_once('first')
    environment.setenv(name, '1')
    log.log_once('second')
    assert messages == ['single', 'first']

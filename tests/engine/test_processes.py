import pytest
import torch
from mmengine.config import Config

from mmfreq.engine import processes
from mmfreq.engine.processes import fit_loaders, fit_norms, fit_precision, fit_processes, sync_to_batch_norm
from mmfreq.errors import UserError

STOCK = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'


@pytest.fixture
def has_gpu(monkeypatch):
    return lambda found: monkeypatch.setattr(torch.cuda, 'is_available', lambda: found)


@pytest.fixture
def said(monkeypatch):
    messages = []
    monkeypatch.setattr(processes, 'log_once', lambda message, level=None: messages.append(message))
    return messages


def stock():
    from mmengine.config import Config
    from mmengine.hub import get_config

    return Config(get_config(STOCK).to_dict())


@pytest.mark.parametrize(('distributed', 'gpu', 'norm'), [(0, 0, 'BN'), (0, 1, 'BN'), (1, 0, 'BN'), (1, 1, 'SyncBN')])
def test_sync_norms_of_a_stock_config_stay_only_in_distributed_gpu_runs(has_gpu, said, distributed, gpu, norm):
    has_gpu(bool(gpu))
    cfg = stock()
    cfg.sync_bn = 'torch'
    fit_norms(cfg, bool(distributed))
    parts = (cfg.model.backbone, cfg.model.decode_head, cfg.model.auxiliary_head)
    assert [part.norm_cfg.type for part in parts] == [norm] * 3
    assert cfg.sync_bn == ('torch' if norm == 'SyncBN' else None)
    assert len(said) == (norm == 'BN') and all('in 3 places' in message for message in said)


def test_sync_norms_are_found_in_lists_by_every_name():
    node = {'a': [{'norm_cfg': {'type': 'MMSyncBN', 'eps': 1}}, ({'type': 'mmcv.SyncBN'},)], 'b': {'type': 'LN'}, 'c': 'SyncBN'}
    assert sync_to_batch_norm(node) == 2
    assert node == {'a': [{'norm_cfg': {'type': 'BN', 'eps': 1}}, ({'type': 'BN'},)], 'b': {'type': 'LN'}, 'c': 'SyncBN'}


def test_sync_norms_are_found_in_wrapped_models_necks_and_lists_of_heads(has_gpu, said):
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
    assert len(said) == 1 and 'in 7 places' in said[0] and cfg.sync_bn is None


def optim(**wrapper):
    return Config({'optim_wrapper': wrapper})


def test_amp_without_an_accelerator_is_an_error(monkeypatch):
    monkeypatch.setattr(processes, 'has_amp_device', lambda: False)
    with pytest.raises(UserError, match='--amp needs an accelerator'):
        fit_precision(optim(type='OptimWrapper'), amp=True)


def test_amp_of_the_config_is_off_without_an_accelerator(monkeypatch, said):
    monkeypatch.setattr(processes, 'has_amp_device', lambda: False)
    cfg = optim(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16', optimizer={'type': 'SGD'}, clip_grad=None)
    fit_precision(cfg, amp=False)
    assert cfg.optim_wrapper.to_dict() == {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD'}, 'clip_grad': None}
    assert len(said) == 1


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
def test_everything_else_stays_as_the_config_says(has_gpu, launcher, gpu):
    has_gpu(gpu)
    cfg = Config({'env_cfg': {'dist_cfg': {'backend': 'nccl'}}})
    fit_processes(cfg, launcher)
    assert cfg.env_cfg.dist_cfg.backend == 'nccl' and 'model_wrapper_cfg' not in cfg


def test_workers_persist_only_where_there_are_any():
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

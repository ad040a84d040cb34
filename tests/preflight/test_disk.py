"""Disk space for checkpoints."""

from collections import namedtuple

import pytest
import torch

from mmfreq.config.meta_model import build_model_on_meta
from mmfreq.engine.launch import load_config
from mmfreq.preflight import resources
from mmfreq.preflight.resources import DiskError, check_disk, checkpoint_bytes, checkpoints_kept

Usage = namedtuple('Usage', 'total used free')


@pytest.fixture
def free(monkeypatch):
    """`free(bytes)`: sets the free space of the disk."""
    return lambda count: monkeypatch.setattr(resources.shutil, 'disk_usage', lambda path: Usage(0, 0, count))


@pytest.fixture
def model(cfg):
    return build_model_on_meta(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'optim_wrapper.optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        {'optim_wrapper.optimizer': {'type': 'SGD', 'lr': 0.1}},
        {'custom_hooks': [{'type': 'EMAHook'}]},
        {'default_hooks.checkpoint.save_optimizer': False},
    ],
    ids=['AdamW', 'momentum', 'SGD', 'EMA', 'without optimizer'],
)
def test_checkpoint_bytes_is_the_size_of_the_file(toy_config, tmp_path, changes):
    from mmfreq.engine.launch import train

    cfg = load_config(toy_config, changes)
    train(toy_config, work_dir=tmp_path / 'w', cfg_options=changes | {'train_cfg.max_iters': 1, 'val_cfg': None} | NO_VAL)
    written = (tmp_path / 'w' / 'iter_1.pth').stat().st_size
    assert 0.85 * written < checkpoint_bytes(cfg, build_model_on_meta(cfg)) <= written


NO_VAL = {'val_dataloader': None, 'val_evaluator': None, 'train_cfg.val_interval': 9}


def test_room_for_less_than_two_checkpoints_is_refused(cfg, model, report, free, tmp_path):
    size = checkpoint_bytes(cfg, model)
    cfg.work_dir = str(tmp_path / 'not' / 'there')
    free(2 * size)
    check_disk(cfg, report, model)
    free(2 * size - 1)
    with pytest.raises(DiskError) as error:
        check_disk(cfg, report, model)
    message = str(error.value)
    assert str(tmp_path / 'not' / 'there') in message and 'default_hooks.checkpoint.max_keep_ckpts=2' in message


def test_room_for_less_than_all_checkpoints_is_a_warning(cfg, model, report, free):
    size = checkpoint_bytes(cfg, model)
    cfg.train_cfg.max_iters, cfg.default_hooks.checkpoint = (
        160,
        {'type': 'CheckpointHook', 'by_epoch': False, 'interval': 16, 'save_best': 'mIoU'},
    )
    free(11 * size)
    check_disk(cfg, report, model)
    assert not report.warnings and report.facts['checkpoints'].startswith('11 checkpoints')
    free(11 * size - 1)
    check_disk(cfg, report, model)
    (warning,) = report.warnings
    assert 'interval=16, max_keep_ckpts=-1 makes 10 checkpoints and 1 best' in warning
    assert 'default_hooks.checkpoint.interval' in warning


def test_existing_checkpoints_count_as_free_space(cfg, model, report, free, tmp_path):
    cfg.work_dir = str(tmp_path)
    free(0)
    with pytest.raises(DiskError):
        check_disk(cfg, report, model)
    (tmp_path / 'iter_1.pth').write_bytes(bytes(2 * checkpoint_bytes(cfg, model)))
    check_disk(cfg, report, model)


@pytest.mark.parametrize(
    ('hook', 'count'),
    [
        ({'interval': 3}, 4),
        ({'interval': 3, 'max_keep_ckpts': 2}, 2),
        ({}, 1),
        ({'interval': 3, 'save_begin': 6}, 2),
        ({'interval': 3, 'by_epoch': False}, None),
        ({'interval': 100}, 1),
    ],
)
def test_checkpoints_kept(cfg, hook, count):
    cfg.train_cfg = {'max_epochs': 12}
    assert checkpoints_kept(cfg, hook) == count


def test_the_model_is_on_the_meta_device(model):
    assert {parameter.device for parameter in model.parameters()} == {torch.device('meta')}

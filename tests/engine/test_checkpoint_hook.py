"""Which checkpoints mmfreq's CheckpointHook keeps, and when it removes them."""

import os

import pytest
import torch
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook

from mmfreq.engine.launch import prepare_train, train
from mmfreq.engine.resume import atomic_files
from mmfreq.engine.resume.atomic_files import DiskFullError
from mmfreq.engine.resume.checkpoint_hook import CheckpointHook
from mmfreq.engine.resume.loops import make_resumable
from mmfreq.engine.resume.start import latest_checkpoint

WITHOUT_VALIDATION = {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}


def options(**more):
    given = {'train_cfg.max_iters': 4, 'default_hooks.checkpoint.interval': 1} | WITHOUT_VALIDATION
    return given | {f'default_hooks.checkpoint.{name}': value for name, value in more.items()}


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix == '.pth')


@pytest.mark.slow
def test_old_checkpoint_is_removed_after_the_new_one_is_saved(toy_config, tmp_path, monkeypatch):
    seen = []
    remove = atomic_files.AtomicBackend.remove
    monkeypatch.setattr(atomic_files.AtomicBackend, 'remove', lambda self, path: seen.append(names(tmp_path)) or remove(self, path))
    train(toy_config, work_dir=tmp_path, cfg_options=options(max_keep_ckpts=1))
    assert seen == [['iter_1.pth', 'iter_2.pth'], ['iter_2.pth', 'iter_3.pth'], ['iter_3.pth', 'iter_4.pth']]
    assert names(tmp_path) == ['iter_4.pth']


@pytest.mark.slow
def test_old_checkpoint_stays_if_the_disk_is_full(toy_config, tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if str(target).endswith('iter_3.pth'):
            raise OSError(28, 'No space left on device')
        replace(source, target)

    monkeypatch.setattr(atomic_files.os, 'replace', full)
    with pytest.raises(DiskFullError, match=r'iter_3\.pth'):
        train(toy_config, work_dir=tmp_path, cfg_options=options(max_keep_ckpts=1))
    assert names(tmp_path) == ['iter_2.pth'] and latest_checkpoint(tmp_path)[0].name == 'iter_2.pth'


@pytest.mark.slow
def test_resumed_run_removes_leftovers_of_a_killed_one(toy_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files.AtomicBackend, 'remove', lambda self, path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(toy_config, work_dir=tmp_path, cfg_options=options(max_keep_ckpts=1))
    assert names(tmp_path) == ['iter_1.pth', 'iter_2.pth']
    (tmp_path / '.iter_3.pth.0.part').write_bytes(b'half')
    train(toy_config, work_dir=tmp_path, resume='latest', cfg_options=options(max_keep_ckpts=1))
    assert names(tmp_path) == ['iter_4.pth'] and not list(tmp_path.glob('.*.part'))


@pytest.mark.slow
def test_warning_of_an_interval_between_optimizer_steps(toy_config, tmp_path, capsys):
    train(toy_config, work_dir=tmp_path, cfg_options=options() | {'optim_wrapper.accumulative_counts': 2})
    assert 'saved every 1 iterations, and gradients are applied every 2' in capsys.readouterr().out


@pytest.mark.slow
def test_checkpoint_format_is_mmengines(toy_config, tmp_path):
    train(toy_config, work_dir=tmp_path, cfg_options=options())
    content = torch.load(tmp_path / 'iter_4.pth', weights_only=True)
    assert set(content) == {'meta', 'state_dict', 'message_hub', 'optimizer'} and content['meta']['iter'] == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ('given', 'loop', 'hook'),
    [
        ({}, 'mmfreq.IterBasedTrainLoop', 'mmfreq.CheckpointHook'),
        ({'train_cfg.type': 'mmengine.IterBasedTrainLoop'}, 'mmfreq.IterBasedTrainLoop', 'mmfreq.CheckpointHook'),
        ({'default_hooks.checkpoint.type': MMEngineCheckpointHook}, 'mmfreq.IterBasedTrainLoop', 'mmfreq.CheckpointHook'),
        ({'default_hooks.checkpoint.type': CheckpointHook}, 'mmfreq.IterBasedTrainLoop', CheckpointHook),
        ({'train_cfg.type': 'other.Loop', 'default_hooks.checkpoint.type': 'other.Hook'}, 'other.Loop', 'other.Hook'),
    ],
)
def test_only_mmengines_loop_and_hook_are_replaced(toy_config, tmp_path, given, loop, hook):
    cfg = prepare_train(toy_config, work_dir=tmp_path / 'w', cfg_options=given)
    assert (cfg.train_cfg.type, cfg.default_hooks.checkpoint.type) == (loop, hook)
    before = cfg.to_dict()
    make_resumable(cfg)
    assert cfg.to_dict() == before


@pytest.mark.parametrize(('by_epoch', 'loop'), [(True, 'mmfreq.EpochBasedTrainLoop'), (False, 'mmfreq.IterBasedTrainLoop')])
def test_loop_from_by_epoch(toy_config, tmp_path, by_epoch, loop):
    given = {'train_cfg': {'_delete_': True, 'by_epoch': by_epoch, 'max_epochs' if by_epoch else 'max_iters': 3}}
    assert prepare_train(toy_config, work_dir=tmp_path / 'w', cfg_options=given).train_cfg.type == loop

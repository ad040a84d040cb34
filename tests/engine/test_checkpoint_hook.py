"""What mmfreq's CheckpointHook keeps, and when it removes."""

import os

import pytest
import torch
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook

from mmfreq.engine.launch import make_resumable, prepare_train, train
from mmfreq.engine.resume import atomic_files
from mmfreq.engine.resume.atomic_files import DiskFullError
from mmfreq.engine.resume.checkpoint_hook import CheckpointHook
from mmfreq.engine.resume.start import latest_checkpoint

WITHOUT_VALIDATION = {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}


def options(**more):
    given = {'train_cfg.max_iters': 4, 'default_hooks.checkpoint.interval': 1} | WITHOUT_VALIDATION
    return given | {f'default_hooks.checkpoint.{name}': value for name, value in more.items()}


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix == '.pth')


@pytest.mark.slow
def test_the_old_one_goes_after_the_new_one_is_there(toy_config, tmp_path, monkeypatch):
    seen = []
    remove = atomic_files.AtomicBackend.remove
    monkeypatch.setattr(atomic_files.AtomicBackend, 'remove', lambda self, path: seen.append(names(tmp_path)) or remove(self, path))
    train(toy_config, work_dir=tmp_path, cfg_options=options(max_keep_ckpts=1))
    assert seen == [['iter_1.pth', 'iter_2.pth'], ['iter_2.pth', 'iter_3.pth'], ['iter_3.pth', 'iter_4.pth']]
    assert names(tmp_path) == ['iter_4.pth']


@pytest.mark.slow
def test_where_there_is_no_room_for_the_new_one_the_old_one_stays(toy_config, tmp_path, monkeypatch):
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
def test_what_a_killed_run_could_not_remove_is_removed_when_it_goes_on(toy_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files.AtomicBackend, 'remove', lambda self, path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(toy_config, work_dir=tmp_path, cfg_options=options(max_keep_ckpts=1))
    assert names(tmp_path) == ['iter_1.pth', 'iter_2.pth']
    (tmp_path / '.iter_3.pth.0.part').write_bytes(b'half')
    train(toy_config, work_dir=tmp_path, resume='latest', cfg_options=options(max_keep_ckpts=1))
    assert names(tmp_path) == ['iter_4.pth'] and not list(tmp_path.glob('.*.part'))


@pytest.mark.slow
def test_an_interval_between_two_steps_of_the_optimizer_is_told(toy_config, tmp_path, capsys):
    train(toy_config, work_dir=tmp_path, cfg_options=options() | {'optim_wrapper.accumulative_counts': 2})
    assert 'made every 1 iterations and gradients applied every 2' in capsys.readouterr().out


@pytest.mark.slow
def test_the_checkpoints_are_mmengines(toy_config, tmp_path):
    """Another project reads them as ever."""
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
def test_mmengines_own_parts_are_replaced_and_no_others(toy_config, tmp_path, given, loop, hook):
    cfg = prepare_train(toy_config, work_dir=tmp_path / 'w', cfg_options=given)
    assert (cfg.train_cfg.type, cfg.default_hooks.checkpoint.type) == (loop, hook)
    before = cfg.to_dict()
    make_resumable(cfg)
    assert cfg.to_dict() == before


@pytest.mark.parametrize(('by_epoch', 'loop'), [(True, 'mmfreq.EpochBasedTrainLoop'), (False, 'mmfreq.IterBasedTrainLoop')])
def test_the_short_way_to_name_a_loop(toy_config, tmp_path, by_epoch, loop):
    given = {'train_cfg': {'_delete_': True, 'by_epoch': by_epoch, 'max_epochs' if by_epoch else 'max_iters': 3}}
    assert prepare_train(toy_config, work_dir=tmp_path / 'w', cfg_options=given).train_cfg.type == loop

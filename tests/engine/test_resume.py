"""Where a run starts: the checkpoint to resume from, pretrained files, and the check of the work directory."""

import logging
import os
import re
import shutil
from contextlib import contextmanager

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmfreq.compat.safe_load import CheckpointError
from mmfreq.engine.launch import prepare_test, prepare_train
from mmfreq.engine.processes import sync_to_batch_norm
from mmfreq.engine.resume import start
from mmfreq.engine.resume.start import (
    AUTO,
    LATEST,
    WorkDirError,
    check_file,
    check_pretrained,
    check_work_dir,
    comparable_model,
    differing_keys,
    fetch_weights,
    latest_checkpoint,
    set_start,
)
from mmfreq.errors import UserError
from mmfreq.testing.toy_segmentation import toy_segmentor, write_toy_config


@contextmanager
def propagated(caplog):
    """Let pytest capture what is logged before a Runner has made a logger."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO):
            yield
    finally:
        logger.removeHandler(caplog.handler)


def test_latest_checkpoint_of_a_moved_folder(trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / 'moved')
    (moved / 'last_checkpoint').write_text('/gone/iter_2.pth')
    for folder in (trained, moved):
        path, content = latest_checkpoint(folder)
        assert path == folder / 'iter_2.pth' and content['meta']['iter'] == 2


def test_resume_without_a_checkpoint_is_an_error(toy_config, tmp_path):
    work_dir = tmp_path / 'fresh'
    with pytest.raises(UserError, match='--resume') as error:
        prepare_train(toy_config, work_dir=work_dir, resume=LATEST)
    assert str(work_dir) in str(error.value) and not work_dir.exists()
    work_dir.mkdir()
    with pytest.raises(UserError, match='no checkpoint') as error:
        prepare_train(toy_config, work_dir=work_dir, resume=LATEST)
    assert str(work_dir) in str(error.value) and not list(work_dir.iterdir())


@pytest.fixture
def folder(tmp_path):
    """`folder(name, whole=True)` writes a checkpoint into one folder, each a second after the one before; `note` names one."""
    names = []

    def write(name, whole=True):
        path = tmp_path / name
        torch.save({'state_dict': {}, 'meta': {'iter': len(names)}}, path)
        if not whole:
            path.write_bytes(path.read_bytes()[:-100])
        names.append(name)
        os.utime(path, (1e9 + len(names), 1e9 + len(names)))
        return tmp_path

    write.note = lambda name: (tmp_path / 'last_checkpoint').write_text(f'/somewhere/else/{name}')
    write.path = tmp_path
    return write


def test_truncated_checkpoint_is_skipped_with_a_warning(folder, caplog):
    folder('iter_9.pth')
    folder('iter_10.pth')
    folder('iter_11.pth', whole=False)
    folder.note('iter_11.pth')
    with propagated(caplog):
        assert latest_checkpoint(folder.path)[0].name == 'iter_10.pth'
    assert 'iter_11.pth' in caplog.text and 'truncated' in caplog.text


def test_checkpoint_later_than_the_note_is_the_latest(folder):
    """The process died between writing the two."""
    for name in ('iter_8.pth', 'iter_9.pth', 'iter_10.pth'):
        folder(name)
    folder.note('iter_9.pth')
    assert latest_checkpoint(folder.path)[0].name == 'iter_10.pth'


@pytest.mark.parametrize('note', [None, '', 'iter_77.pth'])
def test_without_a_valid_note_the_last_written_checkpoint_is_used(folder, note):
    for name in ('iter_100.pth', 'iter_8.pth', 'best_mIoU_iter_9.pth', 'weights.pth'):
        folder(name)
    if note is not None:
        folder.note(note)
    assert latest_checkpoint(folder.path)[0].name == 'iter_8.pth'


def test_checkpoints_of_a_longer_overwritten_run_are_not_used(folder):
    for name in ('iter_300.pth', 'iter_100.pth', 'iter_200.pth'):
        folder(name)
    folder('iter_201.pth', whole=False)
    folder.note('iter_201.pth')
    assert latest_checkpoint(folder.path)[0].name == 'iter_200.pth'


def test_copied_folder_without_file_times(folder):
    for name in ('iter_10.pth', 'iter_9.pth', 'iter_8.pth'):
        folder(name)
    (folder.path / 'iter_10.pth').write_bytes(b'')
    os.utime(folder.path / 'iter_10.pth', (1e9, 1e9))
    folder.note('iter_10.pth')
    assert latest_checkpoint(folder.path)[0].name == 'iter_9.pth'


def test_interrupted_checkpoint_comes_before_earlier_epochs(folder):
    for name in ('epoch_1.pth', 'epoch_2.pth', 'interrupted_iter_250.pth'):
        folder(name)
    folder.note('interrupted_iter_250.pth')
    assert latest_checkpoint(folder.path)[0].name == 'interrupted_iter_250.pth'
    (folder.path / 'interrupted_iter_250.pth').write_bytes(b'PK')
    assert latest_checkpoint(folder.path)[0].name == 'epoch_2.pth'


def test_all_unreadable_checkpoints_are_listed(folder):
    folder('iter_1.pth', whole=False)
    folder('iter_2.pth', whole=False)
    with pytest.raises(UserError, match=r'(?s)iter_2\.pth.*iter_1\.pth'):
        latest_checkpoint(folder.path)


def test_auto_starts_from_scratch_without_a_checkpoint(tmp_path, trained):
    cfg = Config({'work_dir': str(tmp_path / 'none'), 'resume': True})
    set_start(cfg, AUTO)
    assert not cfg.resume and not cfg.get('load_from')
    shutil.copy(trained / 'iter_2.pth', tmp_path / 'best_mIoU_iter_2.pth')  # has no optimizer
    set_start(best := Config({'work_dir': str(tmp_path), 'resume': True}), AUTO)
    assert not best.resume and not best.get('load_from')
    cfg = Config({'work_dir': str(trained)})
    set_start(cfg, AUTO)
    assert cfg.resume and cfg.load_from == str(trained / 'iter_2.pth')


def test_seed_comes_from_the_checkpoint(trained, caplog):
    """mmengine takes it over only after it has seeded the samplers."""
    cfg = Config({'work_dir': str(trained), 'randomness': {'seed': 7, 'deterministic': True}})
    with propagated(caplog):
        set_start(cfg, LATEST)
    assert cfg.randomness == {'seed': 0, 'deterministic': True}
    assert re.search(r'seed.*\b0\b.*\b7\b', caplog.text)


def test_flag_overrides_load_from_of_the_config(trained):
    cfg = Config({'work_dir': str(trained), 'load_from': 'pretrained.pth', 'resume': False})
    set_start(cfg, LATEST)
    assert (cfg.resume, cfg.load_from) == (True, str(trained / 'iter_2.pth'))


def test_resume_in_the_config_equals_the_flag(tmp_path):
    with pytest.raises(UserError, match='--resume'):
        set_start(Config({'work_dir': str(tmp_path), 'resume': True, 'load_from': None}))


def test_error_names_the_absolute_path_of_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"'no\.pth'") as error:
        set_start(Config({'work_dir': 'w'}), 'no.pth')
    assert str(tmp_path / 'no.pth') in str(error.value)
    monkeypatch.setattr(start, 'unpickles_by_default', lambda: False)  # it is true of torch before 2.6
    check_file('s3://bucket/weights.pth')  # left to mmengine


def test_remote_file_is_refused_if_torch_load_would_run_code(monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    with pytest.raises(UserError, match=r's3://bucket/weights\.pth.*download'):
        check_file('s3://bucket/weights.pth')


def test_url_is_downloaded_and_replaced_by_the_file_and_a_name_stays(trained, tmp_path, monkeypatch):
    requested = []
    monkeypatch.setattr(start, 'local_file', lambda source, **_: requested.append(str(source)) or trained / 'iter_2.pth')
    url = 'https://example.org/weights.pth'
    model = dict(a=dict(init_cfg=dict(type='Pretrained', checkpoint=url)))
    model['b'] = dict(init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-tiny-gf'))
    cfg = Config({'work_dir': str(tmp_path), 'load_from': url, 'model': model})
    set_start(cfg)
    assert not requested  # the data are checked before anything is downloaded
    fetch_weights(cfg)
    assert cfg.load_from == cfg.model.a.init_cfg.checkpoint == str(trained / 'iter_2.pth')
    assert cfg.model.b.init_cfg.checkpoint == 'mmfreq://hornet-tiny-gf' and requested == [url, url, 'mmfreq://hornet-tiny-gf']


def test_truncated_file_is_refused_and_kept(trained, tmp_path):
    whole = (trained / 'iter_2.pth').read_bytes()
    broken = tmp_path / 'broken.pth'
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r'broken\.pth'):
        check_file(broken)
    assert broken.read_bytes() == whole[: len(whole) // 2]


def test_pretrained_files_are_found_everywhere_in_a_model(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(start, 'unpickles_by_default', lambda: False)  # it is true of torch before 2.6

    def model(path):
        init = {'type': 'Pretrained', 'checkpoint': str(path)}
        return {'type': 'Cascade', 'parts': [{'backbone': {'type': 'HorNet', 'init_cfg': [{'type': 'Normal'}, init]}}]}

    check_pretrained(model(trained / 'iter_2.pth'))
    check_pretrained(model('s3://bucket/weights.pth'))
    check_pretrained({'type': 'X', 'init_cfg': None})
    with pytest.raises(UserError, match=r'HorNet.*init_cfg.*none\.pth'):
        check_pretrained(model(tmp_path / 'none.pth'))


@pytest.fixture
def work_dir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / 'work')


def test_same_config_is_accepted(work_dir, toy_config):
    cfg = prepare_train(toy_config, work_dir=work_dir)
    assert cfg.work_dir == str(work_dir)


def test_another_model_is_refused_with_the_differing_keys(work_dir, toy_config, snapshot):
    before = snapshot(work_dir)
    with pytest.raises(WorkDirError) as error:
        prepare_train(toy_config, work_dir=work_dir, cfg_options={'model.decode_head.channels': 8})
    message = str(error.value)
    assert re.search(r'model\.decode_head\.channels\b.*\b16\b.*\b8\b', message)
    assert str(work_dir / 'toy.py') in message and toy_config in message and '--work-dir' in message
    assert snapshot(work_dir) == before


def test_another_config_file_is_refused(work_dir, toy_root, tmp_path):
    other = write_toy_config(tmp_path / 'other.py', toy_root)
    with pytest.raises(WorkDirError, match=r'toy\.py'):
        prepare_train(other, work_dir=work_dir)


def test_other_fields_may_differ(work_dir, toy_config):
    changes = {'train_dataloader.num_workers': 1, 'train_cfg.max_iters': 7, 'optim_wrapper.optimizer.lr': 1e-4}
    assert prepare_train(toy_config, work_dir=work_dir, cfg_options=changes).train_cfg.max_iters == 7


def test_work_dir_without_checkpoints_is_accepted(work_dir, toy_config):
    for path in (*work_dir.glob('*.pth'), work_dir / 'last_checkpoint'):
        path.unlink()
    prepare_train(toy_config, work_dir=work_dir, cfg_options={'model.decode_head.channels': 8})


def test_sync_norms_tuples_and_folders_of_weights_do_not_count():
    here, there = ({'model': toy_segmentor(norm)} for norm in ('SyncBN', 'BN'))
    here['model']['backbone']['init_cfg'] = {'type': 'Pretrained', 'checkpoint': '/a/w.pth'}
    there['model']['backbone']['init_cfg'] = {'type': 'Pretrained', 'checkpoint': '/b/w.pth'}
    there['model']['decode_head']['pool_scales'] = [1, 2]
    there = {'model': {'type': 'SegTTAModel', 'module': there['model']}}
    assert comparable_model(here) == comparable_model(there)
    assert sync_to_batch_norm({'model': toy_segmentor('SyncBN')}) == 1


def test_every_type_of_difference_is_found():
    pairs = list(differing_keys({'a': 1, 'b': [1, {'c': 2}], 'd': 0}, {'a': 1, 'b': [1, {'c': 3}], 'e': 0}))
    assert pairs == [
        'model.b.1.c is 2 there and 3 here',
        "model.d is 0 there and '(absent)' here",
        "model.e is '(absent)' there and 0 here",
    ]


def test_testing_does_not_write_to_the_training_folder(trained, toy_config, snapshot, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg = prepare_test(toy_config, trained / 'iter_2.pth', tta=True)
    assert cfg.work_dir == 'work_dirs/toy/test'
    check_work_dir(Config({**cfg.to_dict(), 'work_dir': str(trained)}, filename=toy_config))

import logging
import os
import re
import shutil
from contextlib import contextmanager

import pytest
import torch
from mmengine.config import Config

from mmfreq.compat.safe_load import CheckpointError
from mmfreq.engine.launch import prepare_train
from mmfreq.engine.resume.start import AUTO, LATEST, check_file, check_pretrained, latest_checkpoint, set_start
from mmfreq.errors import UserError


@contextmanager
def propagated(caplog):
    """Let pytest see what is logged while no Runner has made a logger."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO):
            yield
    finally:
        logger.removeHandler(caplog.handler)


def test_latest_is_named_in_full_even_after_the_folder_moved(trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / 'moved')
    (moved / 'last_checkpoint').write_text('/gone/iter_2.pth')
    for folder in (trained, moved):
        path, content = latest_checkpoint(folder)
        assert path == folder / 'iter_2.pth' and content['meta']['iter'] == 2


def test_resume_without_a_checkpoint_never_starts_afresh(toy_config, tmp_path):
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


def test_a_torn_checkpoint_is_left_out_with_a_warning(folder, caplog):
    folder('iter_9.pth')
    folder('iter_10.pth')
    folder('iter_11.pth', whole=False)
    folder.note('iter_11.pth')
    with propagated(caplog):
        assert latest_checkpoint(folder.path)[0].name == 'iter_10.pth'
    assert 'iter_11.pth' in caplog.text and 'truncated' in caplog.text


def test_a_checkpoint_later_than_the_note_is_the_latest(folder):
    """The process died between writing the two."""
    for name in ('iter_8.pth', 'iter_9.pth', 'iter_10.pth'):
        folder(name)
    folder.note('iter_9.pth')
    assert latest_checkpoint(folder.path)[0].name == 'iter_10.pth'


@pytest.mark.parametrize('note', [None, '', 'iter_77.pth'])
def test_without_a_note_that_helps_the_last_one_written_is_taken(folder, note):
    for name in ('iter_100.pth', 'iter_8.pth', 'best_mIoU_iter_9.pth', 'weights.pth'):
        folder(name)
    if note is not None:
        folder.note(note)
    assert latest_checkpoint(folder.path)[0].name == 'iter_8.pth'


def test_checkpoints_of_a_longer_run_that_is_overwritten_are_not_taken(folder):
    for name in ('iter_300.pth', 'iter_100.pth', 'iter_200.pth'):
        folder(name)
    folder('iter_201.pth', whole=False)
    folder.note('iter_201.pth')
    assert latest_checkpoint(folder.path)[0].name == 'iter_200.pth'


def test_a_copied_folder_has_lost_its_times(folder):
    for name in ('iter_10.pth', 'iter_9.pth', 'iter_8.pth'):
        folder(name)
    (folder.path / 'iter_10.pth').write_bytes(b'')
    os.utime(folder.path / 'iter_10.pth', (1e9, 1e9))
    folder.note('iter_10.pth')
    assert latest_checkpoint(folder.path)[0].name == 'iter_9.pth'


def test_an_interrupted_epoch_goes_before_the_epochs_before_it(folder):
    for name in ('epoch_1.pth', 'epoch_2.pth', 'interrupted_iter_250.pth'):
        folder(name)
    folder.note('interrupted_iter_250.pth')
    assert latest_checkpoint(folder.path)[0].name == 'interrupted_iter_250.pth'
    (folder.path / 'interrupted_iter_250.pth').write_bytes(b'PK')
    assert latest_checkpoint(folder.path)[0].name == 'epoch_2.pth'


def test_all_that_cannot_be_read_are_listed(folder):
    folder('iter_1.pth', whole=False)
    folder('iter_2.pth', whole=False)
    with pytest.raises(UserError, match=r'(?s)iter_2\.pth.*iter_1\.pth'):
        latest_checkpoint(folder.path)


def test_auto_starts_afresh_where_there_is_nothing(tmp_path, trained):
    cfg = Config({'work_dir': str(tmp_path / 'none'), 'resume': True})
    set_start(cfg, AUTO)
    assert not cfg.resume and not cfg.get('load_from')
    cfg = Config({'work_dir': str(trained)})
    set_start(cfg, AUTO)
    assert cfg.resume and cfg.load_from == str(trained / 'iter_2.pth')


def test_the_seed_is_that_of_the_checkpoint(trained, caplog):
    """mmengine takes it over only after it has seeded the samplers."""
    cfg = Config({'work_dir': str(trained), 'randomness': {'seed': 7, 'deterministic': True}})
    with propagated(caplog):
        set_start(cfg, LATEST)
    assert cfg.randomness == {'seed': 0, 'deterministic': True}
    assert re.search(r'seed.*\b0\b.*\b7\b', caplog.text)


def test_the_flag_beats_load_from_of_the_config(trained):
    cfg = Config({'work_dir': str(trained), 'load_from': 'pretrained.pth', 'resume': False})
    set_start(cfg, LATEST)
    assert (cfg.resume, cfg.load_from) == (True, str(trained / 'iter_2.pth'))


def test_resume_in_the_config_is_the_flag(tmp_path):
    with pytest.raises(UserError, match='--resume'):
        set_start(Config({'work_dir': str(tmp_path), 'resume': True, 'load_from': None}))


def test_a_missing_file_is_told_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"'no\.pth'") as error:
        set_start(Config({'work_dir': 'w'}), 'no.pth')
    assert str(tmp_path / 'no.pth') in str(error.value)
    monkeypatch.setattr('mmfreq.engine.resume.start.unpickles_by_default', lambda: False)  # it is true of torch before 2.6
    check_file('s3://bucket/weights.pth')  # left to mmengine


def test_what_mmengine_alone_reads_is_refused_where_it_would_run_code(monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    with pytest.raises(UserError, match=r's3://bucket/weights\.pth.*download'):
        check_file('s3://bucket/weights.pth')


def test_an_address_is_fetched_and_given_to_mmengine_as_a_file(trained, tmp_path, monkeypatch):
    from mmfreq.engine.resume import start

    asked = []
    monkeypatch.setattr(start, 'local_file', lambda source: asked.append(str(source)) or trained / 'iter_2.pth')
    cfg = Config({'work_dir': str(tmp_path), 'load_from': 'https://example.org/weights.pth'})
    set_start(cfg)
    assert cfg.load_from == str(trained / 'iter_2.pth') and asked[0] == 'https://example.org/weights.pth'


def test_a_truncated_file_is_refused_and_kept(trained, tmp_path):
    whole = (trained / 'iter_2.pth').read_bytes()
    broken = tmp_path / 'broken.pth'
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r'broken\.pth'):
        check_file(broken)
    assert broken.read_bytes() == whole[: len(whole) // 2]


def test_pretrained_files_are_looked_for_wherever_the_model_names_them(trained, tmp_path, monkeypatch):
    monkeypatch.setattr('mmfreq.engine.resume.start.unpickles_by_default', lambda: False)  # it is true of torch before 2.6

    def model(path):
        init = {'type': 'Pretrained', 'checkpoint': str(path)}
        return {'type': 'Cascade', 'parts': [{'backbone': {'type': 'HorNet', 'init_cfg': [{'type': 'Normal'}, init]}}]}

    check_pretrained(model(trained / 'iter_2.pth'))
    check_pretrained(model('s3://bucket/weights.pth'))
    check_pretrained({'type': 'X', 'init_cfg': None})
    with pytest.raises(UserError, match=r'HorNet.*init_cfg.*none\.pth'):
        check_pretrained(model(tmp_path / 'none.pth'))


def test_a_published_row_without_its_imagenet_weights_says_so(toy_config, tmp_path):
    from mmfreq.engine.resume import start

    told = []
    options = dict(imagenet_checkpoint='https://example.org/weights.pth')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, 'log_once', lambda message, level: told.append(message))
        prepare_train(toy_config, work_dir=tmp_path / 'a', cfg_options=options)
        assert len(told) == 1 and 'random weights' in told[0] and 'https://example.org/weights.pth' in told[0]
        prepare_train(toy_config, work_dir=tmp_path / 'b')
        assert len(told) == 1

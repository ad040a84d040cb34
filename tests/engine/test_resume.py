import shutil

import pytest
from mmengine.config import Config

from mmfreq.compat.safe_load import CheckpointError
from mmfreq.engine.errors import UserError
from mmfreq.engine.launch import prepare_train
from mmfreq.engine.resume import LATEST, check_file, check_pretrained, latest_checkpoint, set_start


def test_latest_is_named_in_full_even_after_the_folder_moved(trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / 'moved')
    (moved / 'last_checkpoint').write_text('/gone/iter_2.pth')
    assert latest_checkpoint(trained) == trained / 'iter_2.pth'
    assert latest_checkpoint(moved) == moved / 'iter_2.pth'


def test_resume_without_a_checkpoint_never_starts_afresh(toy_config, tmp_path):
    work_dir = tmp_path / 'fresh'
    with pytest.raises(UserError, match='--resume found no folder') as error:
        prepare_train(toy_config, work_dir=work_dir, resume=LATEST)
    assert str(work_dir) in str(error.value) and not work_dir.exists()
    work_dir.mkdir()
    with pytest.raises(UserError, match='it holds no checkpoint at all') as error:
        prepare_train(toy_config, work_dir=work_dir, resume=LATEST)
    assert str(work_dir) in str(error.value) and not list(work_dir.iterdir())


def test_checkpoints_without_a_note_are_listed(trained, tmp_path):
    (tmp_path / 'iter_7.pth').write_bytes(b'')
    with pytest.raises(UserError, match=r'holds iter_7\.pth: name one, `--resume .*iter_7\.pth`'):
        latest_checkpoint(tmp_path)
    (tmp_path / 'last_checkpoint').write_text('/gone/iter_9.pth')
    with pytest.raises(UserError, match=r'names /gone/iter_9\.pth, which is not there'):
        latest_checkpoint(tmp_path)


def test_the_flag_beats_load_from_of_the_config(trained):
    cfg = Config({'work_dir': str(trained), 'load_from': 'pretrained.pth', 'resume': False})
    set_start(cfg, LATEST)
    assert (cfg.resume, cfg.load_from) == (True, str(trained / 'iter_2.pth'))


def test_resume_in_the_config_is_the_flag(tmp_path):
    with pytest.raises(UserError, match='--resume found no'):
        set_start(Config({'work_dir': str(tmp_path), 'resume': True, 'load_from': None}))


def test_a_missing_file_is_told_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"'no\.pth' is not there: looked at ") as error:
        set_start(Config({'work_dir': 'w'}), 'no.pth')
    assert str(tmp_path / 'no.pth') in str(error.value)
    check_file('https://example.com/weights.pth')  # left to mmengine


def test_a_truncated_file_is_refused_and_kept(trained, tmp_path):
    whole = (trained / 'iter_2.pth').read_bytes()
    broken = tmp_path / 'broken.pth'
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r'broken\.pth'):
        check_file(broken)
    assert broken.read_bytes() == whole[: len(whole) // 2]


def test_pretrained_files_are_looked_for_wherever_the_model_names_them(trained, tmp_path):
    def model(path):
        init = {'type': 'Pretrained', 'checkpoint': str(path)}
        return {'type': 'Cascade', 'parts': [{'backbone': {'type': 'HorNet', 'init_cfg': [{'type': 'Normal'}, init]}}]}

    check_pretrained(model(trained / 'iter_2.pth'))
    check_pretrained(model('https://example.com/weights.pth'))
    check_pretrained({'type': 'X', 'init_cfg': None})
    with pytest.raises(UserError, match=r'pretrained checkpoint of HorNet \(its init_cfg\) .* is not there'):
        check_pretrained(model(tmp_path / 'none.pth'))


def test_a_published_row_without_its_imagenet_weights_says_so(toy_config, tmp_path):
    from mmfreq.engine import resume

    told = []
    options = dict(imagenet_checkpoint='https://example.org/weights.pth')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, 'say', lambda message, level: told.append(message))
        prepare_train(toy_config, work_dir=tmp_path / 'a', cfg_options=options)
        assert len(told) == 1 and 'random weights' in told[0] and 'https://example.org/weights.pth' in told[0]
        prepare_train(toy_config, work_dir=tmp_path / 'b')
        assert len(told) == 1

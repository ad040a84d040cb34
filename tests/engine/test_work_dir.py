import re
import shutil

import pytest
from mmengine.config import Config

from mmfreq.engine.launch import prepare_test, prepare_train
from mmfreq.engine.processes import sync_to_batch_norm
from mmfreq.engine.resume.start import WorkDirError, check_work_dir, comparable_model, differing_keys
from mmfreq.testing.toy_segmentation import toy_segmentor, write_toy_config


@pytest.fixture
def work_dir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / 'work')


def test_the_same_config_may_go_on(work_dir, toy_config):
    cfg = prepare_train(toy_config, work_dir=work_dir)
    assert cfg.work_dir == str(work_dir)


def test_another_model_is_refused_with_the_keys_that_differ(work_dir, toy_config, snapshot):
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


def test_what_is_not_the_model_may_differ(work_dir, toy_config):
    changes = {'train_dataloader.num_workers': 1, 'train_cfg.max_iters': 7, 'optim_wrapper.optimizer.lr': 1e-4}
    assert prepare_train(toy_config, work_dir=work_dir, cfg_options=changes).train_cfg.max_iters == 7


def test_logs_without_checkpoints_bind_nobody(work_dir, toy_config):
    for path in (*work_dir.glob('*.pth'), work_dir / 'last_checkpoint'):
        path.unlink()
    prepare_train(toy_config, work_dir=work_dir, cfg_options={'model.decode_head.channels': 8})


def test_sync_norm_tuples_and_folders_of_weights_make_no_other_model():
    here, there = ({'model': toy_segmentor(norm)} for norm in ('SyncBN', 'BN'))
    here['model']['backbone']['init_cfg'] = {'type': 'Pretrained', 'checkpoint': '/a/w.pth'}
    there['model']['backbone']['init_cfg'] = {'type': 'Pretrained', 'checkpoint': '/b/w.pth'}
    there['model']['decode_head']['pool_scales'] = [1, 2]
    there = {'model': {'type': 'SegTTAModel', 'module': there['model']}}
    assert comparable_model(here) == comparable_model(there)
    assert sync_to_batch_norm({'model': toy_segmentor('SyncBN')}) == 1


def test_every_kind_of_difference_is_seen():
    pairs = list(differing_keys({'a': 1, 'b': [1, {'c': 2}], 'd': 0}, {'a': 1, 'b': [1, {'c': 3}], 'e': 0}))
    assert pairs == [
        'model.b.1.c is 2 there and 3 here',
        "model.d is 0 there and '(absent)' here",
        "model.e is '(absent)' there and 0 here",
    ]


def test_testing_does_not_write_into_the_trained_folder(trained, toy_config, snapshot, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg = prepare_test(toy_config, trained / 'iter_2.pth', tta=True)
    assert cfg.work_dir == 'work_dirs/toy/test'
    check_work_dir(Config({**cfg.to_dict(), 'work_dir': str(trained)}, filename=toy_config))

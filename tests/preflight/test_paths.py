"""Folders and files that a config names."""

import shutil
import time

import pytest

from mmfreq.engine.launch import prepare_test, prepare_train
from mmfreq.errors import DataError
from mmfreq.preflight import check_data, holds_a_file, leaf_datasets

ROOT_KEY = 'train_dataloader.dataset.data_root'


def test_error_names_the_missing_root_its_option_and_the_layout(toy_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        prepare_train(toy_config, work_dir='w', cfg_options={ROOT_KEY: 'data/ADEChallengeData2016'})
    message = str(error.value)
    assert f'looked at {tmp_path / "data/ADEChallengeData2016"}' in message
    assert f'--cfg-options {ROOT_KEY}=/path/to/ADEChallengeData2016' in message
    assert 'images/training/' in message and 'annotations/validation/' in message
    assert not (tmp_path / 'w').exists()


def test_only_the_loaders_in_use_are_checked(toy_config, trained):
    gone = {'test_dataloader.dataset.data_root': '/gone'}
    prepare_train(toy_config, work_dir=trained, cfg_options=gone)
    with pytest.raises(DataError, match=r'test_dataloader\.dataset\.data_root'):
        prepare_test(toy_config, trained / 'iter_2.pth', cfg_options=gone)
    prepare_test(toy_config, trained / 'iter_2.pth', cfg_options={ROOT_KEY: '/gone'})


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('data_prefix.img_path', 'images/none', "img_path='images/none' is not a folder"),
        ('data_prefix.seg_map_path', 'none', "seg_map_path='none' is not a folder"),
        ('data_prefix.img_path', 'empty', "img_path='empty' contains no file"),
        ('ann_file', 'list.txt', "ann_file='list.txt' does not exist"),
    ],
)
def test_every_path_of_a_dataset_is_checked(cfg, toy_root, tmp_path, key, value, message):
    root = shutil.copytree(toy_root, tmp_path / 'data')
    (root / 'empty' / 'folder').mkdir(parents=True)
    cfg.merge_from_dict({ROOT_KEY: str(root), f'train_dataloader.dataset.{key}': value})
    with pytest.raises(DataError) as error:
        check_data(cfg)
    assert message in str(error.value) and 'val_dataloader' not in str(error.value)


def test_datasets_inside_wrappers_have_the_keys_that_override_them(cfg):
    plain = cfg.train_dataloader.dataset
    wrapped = {'type': 'RepeatDataset', 'times': 2, 'dataset': {'type': 'ConcatDataset', 'datasets': [plain, plain]}}
    keys = [key for key, _ in leaf_datasets(wrapped, 'd')]
    assert keys == ['d.dataset.datasets.0', 'd.dataset.datasets.1']
    cfg.train_dataloader.dataset = wrapped
    check_data(cfg)
    cfg.merge_from_dict({'train_dataloader.dataset.dataset.datasets.1.data_root': '/gone'})
    with pytest.raises(DataError, match=r'dataset\.dataset\.datasets\.1\.data_root='):
        check_data(cfg)


def test_remote_data_is_not_checked(cfg):
    cfg.train_dataloader.dataset.data_root = 's3://bucket/ade'
    check_data(cfg)


def test_a_folder_of_many_files_takes_milliseconds(cfg, tmp_path):
    for index in range(3000):
        (tmp_path / f'{index}.jpg').touch()
    start = time.process_time()
    assert holds_a_file(tmp_path)
    assert time.process_time() - start < 0.1
    check_data(cfg)
    start = time.process_time()
    check_data(cfg)
    assert time.process_time() - start < 0.1

"""Test data in the config's folder or a given one, with the annotations of evaluators; missing paths are reported."""

import pytest
from mmengine.config import Config

from mmfreq.errors import UserError
from mmfreq.zoo.data_roots import data_name, locate, parse_folders
from tests.zoo.rows_for_tests import row

ROWS = [
    row(dataset='ADE20K'),
    row(dataset='VOC 2012 + SBD'),
    row(task='det', dataset='COCO'),
    row(task='cls', dataset='ImageNet-1k'),
    row(),
    row(task='det'),
    row(dataset='Own Photos'),
]


def coco(root, evaluator=dict, data_root='data/coco/'):
    """A config with its files below `root`."""
    (root / 'annotations').mkdir(parents=True)
    (root / 'val2017').mkdir()
    (root / 'val2017' / '1.jpg').touch()
    (root / 'annotations' / 'val.json').touch()
    metric = dict(type='CocoMetric', ann_file=data_root + 'annotations/val.json')
    dataset = dict(type='CocoDataset', data_root=data_root, ann_file='annotations/val.json', data_prefix=dict(img='val2017/'))
    return Config(dict(test_dataloader=dict(dataset=dataset), test_evaluator=metric if evaluator is dict else [dict(), metric]))


def test_names_of_datasets():
    assert [data_name(each) for each in ROWS] == ['ade20k', 'voc', 'coco', 'imagenet', 'toy', 'toy_coco', 'own_photos']


def test_folders_by_name(tmp_path):
    assert parse_folders([f'ADE20K={tmp_path}', 'own_photos=a=b'], ROWS) == {
        'ade20k': tmp_path,
        'own_photos': tmp_path.__class__('a=b'),
    }


@pytest.mark.parametrize('argument', ['ade20k', 'ade20k=', 'ade=/data', '=/data'])
def test_an_unknown_dataset_is_refused_with_the_known_ones(argument):
    with pytest.raises(UserError, match=r'NAME=FOLDER.*ade20k, coco, imagenet.*' + argument):
        parse_folders([argument], ROWS)


def test_default_is_the_folder_in_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = coco(tmp_path / 'data' / 'coco')
    found = locate(cfg)
    assert (found.root, found.options, found.missing) == (str(tmp_path / 'data' / 'coco'), {}, ())


@pytest.mark.parametrize('evaluator', [dict, list])
def test_data_and_annotations_move_together(tmp_path, evaluator):
    cfg = coco(tmp_path / 'elsewhere', evaluator)
    found = locate(cfg, tmp_path / 'elsewhere')
    assert not found.missing and found.root == str(tmp_path / 'elsewhere')
    cfg.merge_from_dict(dict(found.options))
    metric = cfg.test_evaluator if evaluator is dict else cfg.test_evaluator[1]
    assert metric.ann_file == str(tmp_path / 'elsewhere' / 'annotations' / 'val.json')
    assert cfg.test_dataloader.dataset.data_root == str(tmp_path / 'elsewhere')
    assert cfg.test_dataloader.dataset.ann_file == 'annotations/val.json'


def test_the_parent_folder_is_accepted(tmp_path):
    cfg = coco(tmp_path / 'all' / 'coco')
    assert locate(cfg, tmp_path / 'all').root == str(tmp_path / 'all' / 'coco')


def test_missing_paths_are_reported(tmp_path):
    cfg = coco(tmp_path / 'coco')
    (tmp_path / 'coco' / 'annotations' / 'val.json').unlink()
    assert locate(cfg, tmp_path / 'coco').missing == (str(tmp_path / 'coco' / 'annotations' / 'val.json'),)
    assert locate(cfg, tmp_path / 'none').missing == (str(tmp_path / 'none'),)

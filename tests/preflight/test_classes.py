"""The number of classes of datasets and heads, in the three libraries."""

import re

import pytest
from mmengine.config import Config

from mmfreq.errors import DataError
from mmfreq.preflight import check_data
from mmfreq.preflight.data import check_classes

BOX, MASK = {'type': 'Shared2FCBBoxHead', 'num_classes': 2}, {'type': 'FCNMaskHead', 'num_classes': 2}
DETECTORS = {
    'model.bbox_head': lambda head: {'bbox_head': head, 'rpn_head': {'num_classes': 1}},
    'model.mask_head': lambda head: {'bbox_head': BOX, 'mask_head': head},
    'model.roi_head.bbox_head': lambda head: {'roi_head': {'bbox_head': head, 'mask_head': MASK}, 'rpn_head': {'num_classes': 1}},
    'model.roi_head.bbox_head.1': lambda head: {'roi_head': {'bbox_head': [BOX, head], 'mask_head': [MASK, MASK]}},
    'model.roi_head.mask_head': lambda head: {'roi_head': {'bbox_head': BOX, 'mask_head': head}},
}


@pytest.mark.parametrize('head', ['decode_head', 'auxiliary_head'])
def test_segmentation_head_needs_as_many_classes_as_the_data(cfg, head):
    cfg.model.auxiliary_head = [
        {'type': 'FCNHead', 'num_classes': 6},
        {'type': 'STDCHead', 'num_classes': 2, 'boundary_threshold': 0.1},
    ]
    check_data(cfg)
    heads = cfg.model[head]
    (heads[0] if isinstance(heads, list) else heads).num_classes = 5
    with pytest.raises(DataError, match=rf'6 classes.*model\.{head}(\.0)? .*num_classes=5'):
        check_data(cfg)
    (heads[0] if isinstance(heads, list) else heads).num_classes = 1
    with pytest.raises(DataError, match=r'num_classes=1: .*single sigmoid map is num_classes=2, out_channels=1'):
        check_data(cfg)
    (heads[0] if isinstance(heads, list) else heads).num_classes = 5
    cfg.train_dataloader.dataset.metainfo = cfg.val_dataloader.dataset.metainfo = {'classes': ('ground', 'disk')}
    check_data(cfg)


@pytest.mark.parametrize('key', DETECTORS)
@pytest.mark.parametrize(('count', 'consequence'), [(1, 'score'), (80, 'IndexError')])
def test_detection_head_needs_exactly_the_classes_of_the_data(key, count, consequence):
    data = {'type': 'CocoDataset', 'metainfo': {'classes': ['date', 'fig']}}

    def check(number):
        model = DETECTORS[key]({'num_classes': number})
        check_classes(Config({'default_scope': 'mmdet', 'model': model}), 'train_dataloader.dataset', data)

    check(2)
    with pytest.raises(DataError) as error:
        check(count)
    message = str(error.value)
    assert re.search(rf'2 classes.*{re.escape(key)} .*num_classes={count}', message) and consequence in message
    assert f'--cfg-options {key}.num_classes=2' in message


def test_heads_of_a_mean_teacher_are_checked():
    cfg = Config({'default_scope': 'mmdet', 'model': {'type': 'SoftTeacher', 'detector': {'roi_head': {'bbox_head': BOX}}}})
    check_classes(cfg, 'd', {'type': 'CocoDataset', 'metainfo': {'classes': ['date', 'fig']}})
    with pytest.raises(DataError, match=r'--cfg-options model\.detector\.roi_head\.bbox_head\.num_classes=1\b'):
        check_classes(cfg, 'd', {'type': 'CocoDataset', 'metainfo': {'classes': ['date']}})


def test_heads_without_classes_are_skipped():
    model = {
        'roi_head': {'bbox_head': BOX, 'mask_head': {'num_classes': 80, 'class_agnostic': True}},
        'rpn_head': {'num_classes': 1},
    }
    cfg = Config({'default_scope': 'mmdet', 'model': model})
    check_classes(cfg, 'd', {'type': 'CocoDataset', 'metainfo': {'classes': ('date', 'fig')}})


@pytest.mark.parametrize('model', [{'head': {'num_classes': 10}}, {'num_classes': 10}])
def test_classifier_needs_as_many_classes_as_the_data(model):
    cfg = Config({'default_scope': 'mmpretrain', 'model': model})
    check_classes(cfg, 'd', {'type': 'CustomDataset', 'metainfo': {'classes': ['a', 'b']}})
    with pytest.raises(DataError, match=r'ImageNet.*1000 classes.*model(\.head)? .*num_classes=10'):
        check_classes(cfg, 'd', {'type': 'ImageNet'})


def test_one_map_for_two_classes_is_left_to_custom_metrics():
    model = {'decode_head': {'type': 'FCNHead', 'num_classes': 1}}
    cfg = Config({'default_scope': 'mmseg', 'model': model, 'val_evaluator': {'type': 'MyMetric'}})
    data = {'type': 'BaseSegDataset', 'metainfo': {'classes': ('ground', 'disk')}}
    check_classes(cfg, 'd', data)
    cfg.val_evaluator = [{'type': 'IoUMetric'}]
    with pytest.raises(DataError, match=r'2 classes.*num_classes=1'):
        check_classes(cfg, 'd', data)


def test_classes_as_an_argument_of_mmpretrain(tmp_path):
    cfg = Config({'default_scope': 'mmpretrain', 'model': {'head': {'num_classes': 3}}})
    (tmp_path / 'names.txt').write_text('ant\nbee\ncat\n')
    for classes in (('ant', 'bee', 'cat'), ['ant', 'bee', 'cat'], str(tmp_path / 'names.txt')):
        check_classes(cfg, 'd', {'type': 'ImageNet', 'classes': classes})
    with pytest.raises(DataError, match=r'ImageNet\) has 4 classes, .*num_classes=3'):
        check_classes(cfg, 'd', {'type': 'ImageNet', 'classes': list('abcd')})
    with pytest.raises(DataError, match=r'has 5 classes'):
        check_classes(cfg, 'd', {'type': 'ImageNet', 'classes': list('abc'), 'metainfo': {'classes': list('abcde')}})


def test_classes_as_a_string(tmp_path):
    cfg = Config({'default_scope': 'mmdet', 'model': {'bbox_head': {'num_classes': 2}}})
    with pytest.raises(DataError, match=r"'date'.*classes=\('date',\)"):
        check_classes(cfg, 'd', {'type': 'CocoDataset', 'metainfo': {'classes': 'date'}})
    (tmp_path / 'names.txt').write_text('date\nfig\n')
    check_classes(cfg, 'd', {'type': 'CocoDataset', 'metainfo': {'classes': str(tmp_path / 'names.txt')}})

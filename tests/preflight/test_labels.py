"""Labels that mmseg ignores silently or scores wrongly: classes that never occur, and datasets that number classes differently."""

import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmfreq.errors import DataError
from mmfreq.preflight import label_values
from mmfreq.preflight.segmentation import check_pairs
from mmfreq.testing.toy_segmentation import toy_segmentation_config

LOADERS = ('train_dataloader', 'val_dataloader')
KEY = 'train_dataloader.dataset'
TWO = ('background', 'thing')


@pytest.fixture
def seg(tmp_path):
    """`seg(values, val_values, classes)`: a config of generated label maps; each holds one list of values, in equal parts.

    Without `val_values` validation reads the training data. Other options are of the dataset, those in `head` of the head.
    """

    def make(values, val_values=None, classes=TWO, head=None, val=None, num_classes=None, **dataset):
        for split, maps in (('training', values), ('validation', val_values or values)):
            for kind, suffix in (('images', '.jpg'), ('annotations', '.png')):
                (tmp_path / kind / split).mkdir(parents=True)
                for index, row in enumerate(maps):
                    pixels = (
                        np.resize(np.array(row, np.uint8), (16, 16)) if kind == 'annotations' else np.zeros((16, 16, 3), np.uint8)
                    )
                    cv2.imwrite(str(tmp_path / kind / split / f'{index:03}{suffix}'), pixels)
        cfg = Config(toy_segmentation_config(tmp_path))
        cfg.model.decode_head.update({'num_classes': num_classes or len(classes), **(head or {})})
        common = {'type': 'BaseSegDataset', 'metainfo': {'classes': classes}, 'reduce_zero_label': False, **dataset}
        for loader, changes in (('train_dataloader', {}), ('val_dataloader', val or {})):
            cfg[loader].dataset.update({**common, **changes})
            cfg[loader].dataset.pipeline = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations'}]
        return cfg

    return make


def messages(cfg, report):
    check_pairs(cfg, report, LOADERS)
    return [message for message in report.warnings if message.startswith(KEY)]


FOUR = ('ground', 'car', 'tree', 'sky')
ABSENT = {  # values of the label maps, options -> what the warning says
    '0 and 255': (
        [[0, 255]] * 3,
        {},
        r"class 1 'thing' never occurs in the 3 .*values 0 and 255.*'background'.*100.*1 instead of 255",
    ),
    '255 only where there is no object': (
        [[1, 255]] * 3,
        {},
        r"class 0 'background' never.*values 1 and 255.*0 instead of 255",
    ),
    '0 and 1, shifted': ([[0, 1]] * 3, {'reduce_zero_label': True}, r"class 1 'thing' .*values 0 and 1.*reduce_zero_label=False"),
    '0, 1 and 255, shifted': ([[0, 1, 255]] * 3, {'reduce_zero_label': True}, r"class 1 'thing' never.*reduce_zero_label=False"),
    '0..3 of four, shifted': (
        [[0, 1, 2, 3]] * 3,
        {'classes': FOUR, 'reduce_zero_label': True},
        r"class 3 'sky' never .*values 0, 1, 2 and 3\. reduce_zero_label=True ignores 0.*reduce_zero_label=False",
    ),
    'only one value': ([[0]] * 3, {}, r"class 1 'thing' never.*values 0\. Only 'background' is left.*Check the values"),
    'the last of three is 255': (
        [[0, 1], [0, 255]],
        {'classes': FOUR[:3]},
        r"class 2 'tree' never.*values 0, 1 and 255.*2 instead of 255",
    ),
    '1..3 of three, wide head': (
        [[1, 2, 3]] * 2,
        {'classes': FOUR[:3], 'num_classes': 5, 'val_values': [[0, 1, 2]]},
        r"class 0 'ground' never.*files number the classes from 1: set reduce_zero_label=True",
    ),
    '1..3 of four': ([[1, 2, 3]] * 2, {'classes': FOUR}, r"class 0 'ground' never.*If the files number.*reduce_zero_label=True"),
    'one class in many maps': (
        [[0, 1, 3]] * 40,
        {'classes': FOUR},
        r"class 2 'tree' never occurs in the 40 .*values 0, 1 and 3\. Check",
    ),
    'files of two encodings': (
        [[0, 1]] * 3 + [[0, 255]] * 2,
        {},
        r'the 5 label maps, 3 have the values 0 and 1, such as \S*000\.png, and 2 have 0 and 255, such as \S*003\.png\. '
        r"255 is ignored .*'thing', write new files with 1",
    ),
}


@pytest.mark.parametrize('case', ABSENT)
def test_absent_class_is_a_warning_with_the_reason(seg, report, case):
    values, options, pattern = ABSENT[case]
    found = messages(seg(values, **options), report)
    assert len([message for message in found if 'never' in message or 'ignored' in message]) == 1
    assert any(re.search(pattern, message) for message in found), found


def test_what_is_announced_happens_in_mmseg(seg):
    """A model that predicts background everywhere has mIoU 100 on masks of 0 and 255."""
    from mmseg.datasets import BaseSegDataset

    init_default_scope('mmseg')
    options = seg([[0, 255]] * 2).train_dataloader.dataset.to_dict()
    dataset = BaseSegDataset(**{key: value for key, value in options.items() if key != 'type'})
    for sample in dataset:
        labels = sample['gt_seg_map']
        assert set(np.unique(labels)) == {0, 255}
        assert iou_metric(labels * 0, labels, 2)['mIoU'] == 100


def iou_metric(predicted, labels, classes, **options):
    """The scores of mmseg's metric for one image."""
    from mmseg.evaluation import IoUMetric

    metric = IoUMetric(**options)
    metric.dataset_meta = {'classes': [str(index) for index in range(classes)]}
    predicted, labels = (torch.as_tensor(values)[None] for values in (predicted, labels))
    metric.process({}, [{'pred_sem_seg': {'data': predicted}, 'gt_sem_seg': {'data': labels}}])
    return metric.evaluate(1)


@pytest.mark.parametrize(
    ('predicted', 'labels', 'classes', 'options', 'expected'),
    [
        ([0, 0, 1, 1], [0, 0, 1, 7], 2, {}, {'aAcc': 100, 'mIoU': 75}),  # a label of no class: dropped, but not its prediction
        ([0, 0, 1, 1], [0, 0, 1, 255], 2, {'ignore_index': 9}, {'aAcc': 100, 'mIoU': 75}),  # another ignore_index
        ([0, 0, 1, 2], [0, 0, 1, 1], 2, {}, {'aAcc': 75, 'mIoU': 75}),  # a prediction of no class: an error, as it should be
        ([0, 0, 0, 0], [0, 0, 1, 1], 1, {}, {'aAcc': 50, 'mIoU': 33.33}),  # one class: all pixels are counted as it
        ([0, 0, 1, 1], [0, 0, 1, 1], 2, {'ignore_index': 0}, {'aAcc': 100, 'mIoU': 100}),  # class 0 is left out
        ([1, 1, 0, 1], [0, 0, 1, 1], 2, {'ignore_index': 0}, {'aAcc': 50, 'mIoU': 25}),  # ... or has IoU 0
    ],
)
def test_what_iou_metric_counts(predicted, labels, classes, options, expected):
    """The facts about mmseg 1.2 behind the checks."""
    scores = iou_metric([predicted], [labels], classes, **options)
    assert {key: round(float(scores[key]), 2) for key in expected} == expected


def test_iou_metric_without_labels_is_nan():
    assert np.isnan(iou_metric([[0, 1]], [[255, 255]], 2)['mIoU'])


NO_WARNING = {
    'both classes': ([[0, 1]] * 3, {}),
    'both classes in different maps': ([[0], [1], [0]], {}),
    'with ignored pixels': ([[0, 1, 255]] * 3, {}),
    'with ignored pixels in some': ([[0, 1, 255], [0, 1], [0, 255]], {}),
    'shifted': ([[1, 2], [0, 1]], {'reduce_zero_label': True}),
    'few of many classes': ([[0, 1, 2], [5]] * 10, {'classes': tuple(map(str, range(150)))}),
    'few of many classes, ignored pixels, shifted': (
        [[0, 1, 2, 255], [5]] * 10,
        {'classes': tuple(map(str, range(150))), 'reduce_zero_label': True},
    ),
    'no names': ([[0, 1]] * 3, {'metainfo': {}, 'num_classes': 2}),
}


@pytest.mark.parametrize('case', NO_WARNING)
def test_rare_classes_are_at_most_a_note(seg, report, case):
    values, options = NO_WARNING[case]
    assert not messages(seg(values, **options), report)
    notes = [note for note in report.notes if note.startswith(KEY)]
    assert len(notes) == ('few' in case)
    assert not notes or re.search(r'14[67] of the 150 classes never occur', notes[0])


def test_a_class_in_the_last_of_many_maps_is_found(seg, report):
    """32 of the 200 maps are in the sample; the others are read because a class is missing."""
    values = [[0]] * 200
    values[3] = [0, 1]
    assert not messages(seg(values), report) and not report.notes


def test_reading_further_maps_ends(seg, report, monkeypatch):
    monkeypatch.setattr('mmfreq.preflight.segmentation.READ_SECONDS', 0)
    (warning,) = messages(seg([[0]] * 200), report)
    assert 'in the 32 label maps that were read (of 200)' in warning


CITY = tuple(map(str, range(19)))
ONLY_NOTED = {  # values, options -> what the note says
    'the last of 19, and ignored pixels': ([[*range(18), 255]] * 40, {'classes': CITY}, r"class 18 '18' never occurs"),
    'the last of 19, and ignored pixels, in few': ([[*range(18), 255]] * 3, {'classes': CITY}, r"class 18 '18' never occurs"),
    'the last of 150, shifted': (
        [[*range(150)]] * 3,
        {'classes': tuple(map(str, range(150))), 'reduce_zero_label': True},
        r"class 149 '149' never occurs",
    ),
}


@pytest.mark.parametrize('case', ONLY_NOTED)
def test_a_rare_class_of_many_gets_no_advice(seg, report, case):
    values, options, pattern = ONLY_NOTED[case]
    assert not messages(seg(values, **options), report)
    notes = [note for note in report.notes if note.startswith(KEY)]
    assert len(notes) == 1 and re.search(pattern, notes[0]) and not re.search('instead of|reduce_zero|Check', notes[0])


@pytest.mark.parametrize('ignored', [(), (255,)])
def test_a_class_that_training_has_is_only_noted_in_validation(seg, report, ignored):
    check_pairs(seg([[0, 1, *ignored]] * 3, val_values=[[0, *ignored]] * 2), report, LOADERS)
    assert not report.warnings
    (note,) = report.notes
    assert note.startswith('val_dataloader.dataset: class 1') and note.endswith('The training data have this class.')


def test_validation_of_another_encoding_than_training_is_a_warning(seg, report):
    check_pairs(seg([[0, 1]] * 3, val_values=[[0, 255]] * 2), report, LOADERS)
    assert len(report.warnings) == 1 and re.search(r'val_dataloader.*1 instead of 255', report.warnings[0])


REFUSED = {
    'validation all ignored': (
        [[0, 1]],
        {'val_values': [[255]] * 3},
        r'val_dataloader\.dataset: all pixels of the 3 label maps .*NaN.*instead of 255',
    ),
    'ignored only, shifted': (
        [[0, 255]] * 3,
        {'reduce_zero_label': True, 'val_values': [[1, 2]]},
        r'train_.*all pixels of the 3 label maps are ignored \(255\).*learn nothing.*values 0 and 255, and reduce_zero_label=True'
        r'.*reduce_zero_label=False in every dataset, and write .* instead of 255',
    ),
    'only 0, shifted': (
        [[0]] * 3,
        {'reduce_zero_label': True, 'val_values': [[1, 2]]},
        r'train_.*are ignored, so .* hold only the value 0, [^5]*, and set reduce_zero_label=False in every dataset\.$',
    ),
    'ids beyond the named classes, in validation': (
        [[0, 1]],
        {'val_values': [[0, 1, 2, 3]], 'num_classes': 9},
        r'val_dataloader\.dataset: the dataset has 2 classes.*ids 2 and 3.*scores would be wrong',
    ),
    'ids that only the head ignores, in validation': (
        [[0, 1, 9]],
        {'head': {'ignore_index': 9}},
        r'val_dataloader\.dataset: .*ids 9.*IoUMetric \(ignore_index=255\).*ignore_index',
    ),
    '1..2 of two': ([[1, 2]], {}, r'\b2 in 128 pixels.*The labels are 1\.\.2: .*reduce_zero_label=True'),
    'another order of the classes': (
        [[0, 1]],
        {'val': {'metainfo': {'classes': TWO[::-1]}}},
        r"val_dataloader\.dataset: label 0 is 'thing', but in train.* 'background'",
    ),
    'reduce_zero_label differs': (
        [[0, 1, 2]],
        {'val': {'reduce_zero_label': True}, 'classes': FOUR[:3]},
        r'val_dataloader\.dataset: reduce_zero_label=True, but in train.*False.*same value',
    ),
    'weights of classes, and ignored pixels': (
        [[0, 1, 255]],
        {'head': {'loss_decode': {'type': 'CrossEntropyLoss', 'class_weight': [1.0, 2.0]}}},
        r"train_dataloader\.dataset has ignored pixels \(255\)\. With these, .*CrossEntropyLoss .*IndexError.*reduction='none'",
    ),
    'one sigmoid map, and only ignored pixels': (
        [[255]],
        {
            'head': {'loss_decode': {'type': 'CrossEntropyLoss', 'use_sigmoid': True}, 'out_channels': 1},
            'val_values': [[0, 1]],
        },
        r'train_dataloader\.dataset: in 1 of the 1 label maps all pixels are ignored.*loss CrossEntropyLoss of .* cannot',
    ),
    'LoadAnnotations of another reduce_zero_label': (
        [[0, 1]],
        {'steps': [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'reduce_zero_label': True}]},
        r'LoadAnnotations.*Initialize dataset with `reduce_zero_label` as False',
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_labels_that_cannot_be_trained_or_scored_are_refused(seg, report, case):
    values, options, pattern = REFUSED[case]
    steps = options.get('steps')
    cfg = seg(values, **{key: value for key, value in options.items() if key != 'steps'})
    if steps:
        cfg.train_dataloader.dataset.pipeline = steps
    with pytest.raises(DataError, match=f'(?s){pattern}'):
        check_pairs(cfg, report, LOADERS)


WARNED = {
    'ids beyond the named classes, in training': (
        [[0, 1, 2]],
        {'num_classes': 9, 'val_values': [[0, 1]]},
        r'train_dataloader\.dataset: the dataset has 2 classes.*ids 2, too.*without a name',
    ),
    'names in capitals': (
        [[0, 1]],
        {'val': {'metainfo': {'classes': ('background', 'Thing')}}},
        r"val_dataloader\.dataset: label 1 is 'Thing', but in train.* 'thing'\. .*write the names alike",
    ),
    'more classes in training': (
        [[0, 1, 2]],
        {'classes': FOUR[:3], 'val': {'metainfo': {'classes': FOUR[:2]}}, 'val_values': [[0, 1]]},
        r'val_dataloader\.dataset has 2 classes, but train_dataloader\.dataset has 3',
    ),
    'reduce_zero_label differs, and so do the data': (
        [[0, 1]],
        {'val': {'reduce_zero_label': True, 'data_root': None, 'data_prefix': 'absolute'}, 'val_values': [[0, 1, 2]]},
        r'val_dataloader\.dataset: reduce_zero_label=True, but in train.*right only if',
    ),
    'one sigmoid map, and a map of only ignored pixels': (
        [[0, 1], [255]],
        {'head': {'loss_decode': {'type': 'CrossEntropyLoss', 'use_sigmoid': True}, 'out_channels': 1}},
        r'train_dataloader\.dataset: in 1 of the 2 label maps all pixels are ignored, and in a batch',
    ),
    'weights of classes, and padding': (
        [[0, 1]],
        {'head': {'loss_decode': {'type': 'CrossEntropyLoss', 'class_weight': [1.0, 2.0]}}},
        r"train_dataloader\.dataset: images are padded with ignored pixels \(255\).*IndexError.*reduction='none'",
    ),
    'validation mostly ignored': (
        [[0, 1]],
        {'val_values': [[255]] * 200},
        r'val_dataloader\.dataset: all pixels of the 32 label maps that were read \(of 200\) are ignored.*NaN',
    ),
}


@pytest.mark.parametrize('case', WARNED)
def test_probable_mistakes_are_warnings(seg, report, tmp_path, monkeypatch, case):
    values, options, pattern = WARNED[case]
    monkeypatch.setattr('mmfreq.preflight.segmentation.READ_SECONDS', 0)
    cfg = seg(values, **options)
    if cfg.val_dataloader.dataset.get('data_prefix') == 'absolute':
        folders = {'img_path': 'images/validation', 'seg_map_path': 'annotations/validation'}
        cfg.val_dataloader.dataset.data_prefix = {key: str(tmp_path / folder) for key, folder in folders.items()}
    check_pairs(cfg, report, LOADERS)
    assert [warning for warning in report.warnings if re.search(pattern, warning)], report.warnings


@pytest.mark.parametrize(
    ('numbers', 'text'),
    [
        ([3], '3'),
        ([0, 255], '0 and 255'),
        (range(7), '0..6'),
        ([0, 1, 5, 9, 255], '0, 1, 5, 9 and 255'),
        (range(0, 60, 2), ', ...'),
    ],
)
def test_number_list(numbers, text):
    assert label_values.number_list(numbers).endswith(text)

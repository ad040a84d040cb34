"""COCO files: errors, counts, and that mmdet treats the files as the messages say."""

import copy
import math
import re

import cv2
import numpy as np
import pytest

from mmfreq.errors import DataError
from mmfreq.preflight.coco import check_coco

pytest.importorskip('mmdet')
LOADERS = ('train_dataloader', 'val_dataloader')


def annotation(index, **changes):
    return lambda table: table['annotations'][index].update(changes)


def without(rows, index, key):
    return lambda table: table[rows][index].pop(key)


def set_file_name(name):
    return lambda table: table['images'][0].update(file_name=name)


def duplicate(rows, **changes):
    return lambda table: table[rows].append(copy.deepcopy(table[rows][0]) | changes)


REFUSED = {
    'no category of a class': (
        lambda table: table['categories'][1].update(name='hazelnut'),
        r"1 of the 2 classes.*fig.*date, hazelnut.*classes=\('date', 'hazelnut'",
    ),
    'no categories': (lambda table: table['categories'].clear(), 'The file has no category'),
    'category twice': (duplicate('categories', id=9), "two categories have the name 'date'"),
    'category id twice': (duplicate('categories', name='else'), 'two categories have the id 7'),
    'category without name': (without('categories', 0, 'name'), r'a string `name`.*categories\[0\] is'),
    'path traversal': (set_file_name('../secret.jpg'), r'images.*1 file names.*\.\./secret\.jpg.*data_prefix\.img'),
    'path traversal within': (set_file_name('a/../../secret.jpg'), 'lead out of'),
    'absolute path': (set_file_name('/etc/hostname'), 'lead out of'),
    'windows path': (set_file_name('..\\secret.jpg'), 'lead out of'),
    'missing image': (set_file_name('gone.jpg'), r'images, but 1 of the 2 images.*gone\.jpg'),
    'image without size': (without('images', 1, 'height'), r'images\[1\] has no valid height'),
    'image without name': (without('images', 1, 'file_name'), r'images\[1\] has no valid file_name'),
    'image id twice': (duplicate('images', file_name='2.jpg'), r'two images have the id 10, 0\.jpg and 2\.jpg'),
    'annotation id twice': (annotation(2, id=1), 'two annotations have the id 1'),
    'no box': (without('annotations', 2, 'bbox'), r'annotations\[2\] has no valid bbox'),
    'three numbers': (annotation(1, bbox=[1, 2, 3]), r'annotations\[1\] has no valid bbox'),
    'text in a box': (annotation(1, bbox=[1, 2, '3', 4]), r'annotations\[1\] has no valid bbox'),
    'no area': (without('annotations', 0, 'area'), r'annotations\[0\] has no valid area'),
    'no category id': (without('annotations', 0, 'category_id'), r'annotations\[0\] has no valid category_id'),
    'infinite box': (annotation(0, bbox=[1, 2, math.inf, 10]), r'infinite box of annotations\[0\]'),
    'no images': (lambda table: table['images'].clear(), r'no image.*\b0\b'),
    'no annotations': (lambda table: table['annotations'].clear(), r'no image.*\b3 have no annotation'),
    'all degenerate': (
        lambda table: [row.update(bbox=[1, 1, 0, 5]) for row in table['annotations']],
        r'no annotation.*\b3 are narrower',
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_error_names_the_file_and_the_entry(detection, write_coco, report, case):
    change, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as error:
        check_coco(detection(write_coco(change)), report, LOADERS)
    assert 'train.json' in str(error.value)


CONTENT = {
    'truncated': ('{"images": [', r'train\.json.*JSON'),
    'not UTF-8': ('\udcff', 'it is not JSON'),
    'a list': ('[]', 'a dict.*list'),
    'annotations as a dict': ('{"images": [], "annotations": {}}', "'annotations' is a dict"),
    'numbers as annotations': ('{"images": [], "annotations": [3], "categories": []}', "'annotations'.*dicts"),
    'without categories': ('{"images": [], "annotations": []}', "'categories'.*images, annotations"),
}


@pytest.mark.parametrize('case', CONTENT)
def test_invalid_coco_files(detection, write_coco, report, tmp_path, case):
    text, message = CONTENT[case]
    cfg = detection(write_coco())
    (tmp_path / 'train.json').write_bytes(text.encode(errors='surrogateescape'))
    with pytest.raises(DataError, match=message):
        check_coco(cfg, report, LOADERS)


SKIPPED = {
    'narrow': (annotation(0, bbox=[1, 2, 0.5, 10]), '1 are narrower or lower than 1 pixel'),
    'no extent': (annotation(0, bbox=[1, 2, 0, 10]), '1 are narrower or lower than 1 pixel'),
    'negative': (annotation(0, bbox=[9, 2, -5, 10]), '1 are narrower or lower than 1 pixel'),
    'no area': (annotation(0, area=0), '1 are narrower or lower than 1 pixel'),
    'outside': (annotation(0, bbox=[41, 2, 10, 10]), '1 lie outside of their image'),
    'outside and low': (annotation(0, bbox=[41, 2, 10, 0.5]), '1 lie outside of their image'),
    'NaN': (annotation(0, bbox=[math.nan, 2, 10, 10]), '1 lie outside of their image, or have NaN in their box'),
    'unknown image': (annotation(0, image_id=99), '1 belong to images that the file does not list'),
    'unknown category': (annotation(0, category_id=99), '1 belong to categories that are not a class'),
    'ignored': (annotation(0, ignore=1), '1 have ignore=1'),
    'crowd': (annotation(0, iscrowd=1), '1 are crowds'),
    'bad mask': (annotation(0, segmentation=[[1, 2, 3]]), '1 have an invalid mask'),
}


@pytest.mark.parametrize('case', SKIPPED)
def test_annotations_that_mmdet_skips_are_counted(detection, write_coco, report, case):
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations

    change, message = SKIPPED[case]
    leaf = write_coco(change, with_mask=True)
    check_coco(detection(leaf), report, LOADERS)
    counted = [text for text in (*report.notes, *report.warnings) if message in text]
    assert len(counted) == 1 and 'train.json' in counted[0]
    if case in ('unknown image', 'unknown category', 'bad mask'):  # the others may be meant
        assert 'and are not trained with. Fix or remove them. The first is annotations[0]:' in ' '.join(report.warnings)
    dataset = CocoDataset(**{key: value for key, value in leaf.items() if key not in ('type', 'pipeline')}, pipeline=[])
    sample = dataset.get_data_info(0) | {'ori_shape': (30, 40)}
    trained = len(sample['instances']) - sum(LoadAnnotations(with_mask=True)(sample)['gt_ignore_flags'])
    assert trained == 1


def test_valid_files_are_counted_without_a_warning(detection, write_coco, report):
    check_coco(detection(), report, LOADERS)
    assert not report.warnings
    counts = report.data['train_dataloader.dataset']
    assert (counts.total, counts.kept, counts.classes) == (3, 2, 2)
    assert report.data['val_dataloader.dataset'].kept == 3  # nothing is filtered in validation
    assert [note for note in report.notes if '1 of 3 images have no annotation of a class and are skipped' in note]


@pytest.mark.parametrize('filters', [None, {'filter_empty_gt': True}, {'min_size': 31}, {'filter_empty_gt': True, 'min_size': 30}])
@pytest.mark.parametrize('test_mode', [False, True])
def test_kept_images_are_those_that_mmdet_keeps(detection, write_coco, report, tmp_path, filters, test_mode):
    from mmdet.datasets import CocoDataset

    def change(table):
        table['images'][0].update(height=31)
        table['annotations'][2].update(bbox=[0, 0, 0, 0], area=0)
        cv2.imwrite(str(tmp_path / 'images/0.jpg'), np.zeros((31, 40, 3), np.uint8))

    leaf = write_coco(change, filter_cfg=filters, test_mode=test_mode)
    check_coco(detection(leaf, val=leaf), report, LOADERS)
    dataset = CocoDataset(**{key: value for key, value in leaf.items() if key not in ('type', 'pipeline')}, pipeline=[])
    assert report.data['train_dataloader.dataset'].kept == len(dataset)


def test_missing_masks_are_refused_where_they_are_loaded(detection, write_coco, report):
    change = without('annotations', 1, 'segmentation')
    check_coco(detection(write_coco(change)), report, LOADERS)
    with pytest.raises(DataError, match=r'1 of the 3 .*`segmentation`.*with_mask=False'):
        check_coco(detection(write_coco(change, with_mask=True)), report, LOADERS)


def test_images_that_are_skipped_may_be_missing(detection, write_coco, report, tmp_path):
    cfg = detection(val=write_coco(lambda table: table['images'].pop(), name='val.json'))
    (tmp_path / 'images' / '2.jpg').unlink()
    check_coco(cfg, report, LOADERS)
    assert [note for note in report.notes if '1 images do not exist, but are skipped anyway: 2.jpg' in note]


def test_labels_are_numbered_in_the_order_of_the_categories(detection, write_coco, report):
    from mmdet.datasets import CocoDataset

    leaf = write_coco(lambda table: table['categories'].reverse())
    check_coco(detection(leaf, val=leaf), report, LOADERS)
    assert [warning for warning in report.warnings if re.search(r"label 0 .*'fig'.*'date'", warning)]
    dataset = CocoDataset(**{key: value for key, value in leaf.items() if key not in ('type', 'pipeline')}, pipeline=[])
    fig = next(instance for instance in dataset.get_data_info(0)['instances'] if instance['bbox'][0] == 5)
    assert fig['bbox_label'] == 0 and dataset.metainfo['classes'][0] == 'date'  # so it is in mmdet 3.3
    with pytest.raises(DataError, match=r"label 0 .*'fig'.*'date'"):
        check_coco(detection(leaf), report, LOADERS)


def test_datasets_inside_wrappers_are_checked(detection, write_coco, report):
    leaf = write_coco(set_file_name('gone.jpg'), name='b.json')
    cfg = detection()
    cfg.train_dataloader.dataset = {
        'type': 'MultiImageMixDataset',
        'pipeline': [],
        'dataset': {
            'type': 'RepeatDataset',
            'times': 2,
            'dataset': {'type': 'ConcatDataset', 'datasets': [write_coco(name='a.json'), leaf]},
        },
    }
    with pytest.raises(DataError, match=r'train_dataloader\.dataset\.dataset\.dataset\.datasets\.1: .*gone\.jpg'):
        check_coco(cfg, report, LOADERS)


def test_unlabeled_images_need_no_annotation(detection, write_coco, report):
    """Of semi-supervised training; COCO's image_info_unlabeled2017.json has no list of them."""
    steps = [{'type': 'LoadImageFromFile'}, {'type': 'LoadEmptyAnnotations'}]
    for change in (lambda table: table.pop('annotations'), lambda table: table['annotations'].clear()):
        leaf = write_coco(change, pipeline=steps, filter_cfg={'filter_empty_gt': False})
        check_coco(detection(leaf), report, LOADERS)
        with pytest.raises(DataError, match='no image is left of 3: 3 have no annotation of a class'):
            check_coco(detection(leaf | {'filter_cfg': {'filter_empty_gt': True}}), report, LOADERS)
        with pytest.raises(DataError, match=r"'annotations' is missing|no annotation is left"):
            check_coco(detection(leaf | {'pipeline': steps[:1]}), report, LOADERS)
    assert not report.warnings


def test_subclasses_are_checked_and_other_formats_are_not(detection, write_coco, report):
    leaf = write_coco(set_file_name('gone.jpg'), metainfo={'classes': ('date', 'fig')})
    with pytest.raises(DataError, match=r'gone\.jpg'):
        check_coco(detection(leaf | {'type': 'mmfreq.ToyInstancesDataset'}), report, LOADERS)
    check_coco(detection(leaf | {'type': 'CocoPanopticDataset'}), report, LOADERS)


def test_the_evaluator_must_read_the_file_of_the_dataset(detection, write_coco, report, tmp_path):
    cfg = detection()
    cfg.val_evaluator = {'type': 'CocoMetric', 'ann_file': str(tmp_path / 'val.json')}
    check_coco(cfg, report, LOADERS)
    assert not report.warnings
    cfg.val_evaluator.ann_file = str(tmp_path / 'train.json')  # with the same content
    check_coco(cfg, report, LOADERS)
    assert not report.warnings
    write_coco(lambda table: table['annotations'].pop(), name='other.json')
    cfg.val_evaluator.ann_file = str(tmp_path / 'other.json')
    check_coco(cfg, report, LOADERS)
    assert 'val_evaluator' in report.warnings[0] and 'other.json' in report.warnings[0]
    write_coco(lambda table: (table['images'].pop(0), table['annotations'].pop(0), table['annotations'].pop(0)), name='other.json')
    with pytest.raises(DataError, match=r'does not list 1 images of .*val\.json, such as 10.*Results do not correspond'):
        check_coco(cfg, report, LOADERS)
    cfg.val_evaluator.ann_file = 'none.json'
    with pytest.raises(DataError, match=r"val_evaluator\.ann_file='none\.json'"):
        check_coco(cfg, report, LOADERS)

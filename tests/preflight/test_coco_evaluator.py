"""COCO files that are scored: what pycocotools fails with is refused, what it scores wrongly is a warning."""

import copy
import math
import re

import pytest

from mmfreq.errors import DataError
from mmfreq.preflight.coco import check_coco, check_scored
from tests.preflight.conftest import coco_table

pytest.importorskip('mmdet')
from tests.preflight.perfect_scores import perfect_scores

LOADERS = ('train_dataloader', 'val_dataloader')
POLYGON = [1, 2, 11, 2, 11, 12, 1, 12]


def annotation(index, **changes):
    return lambda table: table['annotations'][index].update(changes)


def every(**changes):
    return lambda table: [row.update(changes) for row in table['annotations']]


def mask(segmentation):
    return annotation(0, segmentation=segmentation)


def without(key):
    return lambda table: table['annotations'][0].pop(key)


def text_image_ids(table):
    for rows, key in ((table['images'], 'id'), (table['annotations'], 'image_id')):
        for row in rows:
            row[key] = f'image {row[key]}'


def one_text_image_id(table):
    table['images'][0]['id'] = 'first'
    for row in table['annotations'][:2]:
        row['image_id'] = 'first'


# name -> (change, error, what the evaluation would do: an exception, a score, or None if it hangs or the file is not read at all)
REFUSED = {
    'no iscrowd': (without('iscrowd'), r'1 of 3 annotations have no `iscrowd`.*Add .iscrowd.: 0 .*annotations\[0\]', KeyError),
    'iscrowd is null': (annotation(0, iscrowd=None), r'no `iscrowd`', TypeError),
    'iscrowd is text': (annotation(0, iscrowd='no'), r'annotations\[0\] has no valid iscrowd', ValueError),
    'iscrowd is a list': (annotation(0, iscrowd=[]), r'annotations\[0\] has no valid iscrowd', TypeError),
    'area is null': (annotation(0, area=None), r'annotations\[0\] has no valid area', TypeError),
    'area is text': (annotation(0, area='5'), r'annotations\[0\] has no valid area', TypeError),
    'area is true': (annotation(0, area=True), r'annotations\[0\] has no valid area', (1.0, 1.0)),
    'area is NaN': (annotation(0, area=math.nan), 'NaN or infinity in bbox or area', (1.0, 1.0)),
    'text as annotation id': (annotation(0, id='a1'), r'1 of 3 are text.*from 1.*annotations\[0\]', ValueError),
    'true as annotation id': (annotation(0, id=True), r'annotations\[0\] has no valid id', None),
    'list as annotation id': (annotation(0, id=[1]), r'annotations\[0\] has no valid id', TypeError),
    'list as category id': (annotation(0, category_id=[7]), r'annotations\[0\] has no valid category_id', TypeError),
    'null as image id': (annotation(0, image_id=None), r'annotations\[0\] has no valid image_id', (0.75, 0.75)),
    'annotation ids twice': (annotation(1, id=1), 'two annotations have the id 1', (0.502, 0.502)),
    'numbers and text as image ids': (one_text_image_id, r"image ids of one type.*numbers \(11\) and text \('first'\)", TypeError),
    'image ids are text in annotations only': (
        lambda table: [row.update(image_id=str(row['image_id'])) for row in table['annotations']],
        r"no annotation belongs to a listed image.*image_id is '10' \(str\).*ids are 10, 11, 12",
        (-1.0, -1.0),
    ),
    'category ids are text in annotations only': (
        lambda table: [row.update(category_id=str(row['category_id'])) for row in table['annotations']],
        r"category_id is '7' \(str\).*ids are 3, 7",
        (-1.0, -1.0),
    ),
    'category ids are text': (
        lambda table: [row.update(id=str(row['id'])) for row in table['categories']],
        r'an integer `id`.*categories\[0\]',
        (-1.0, -1.0),
    ),
    'only crowds': (every(iscrowd=1), r'all 3 annotations of the classes are crowds.*AP would be -1', (-1.0, -1.0)),
    'no annotations': (lambda table: table['annotations'].clear(), 'the file has no annotations', (-1.0, -1.0)),
    'an annotation is null': (lambda table: table['annotations'].append(None), "'annotations'.*dicts", TypeError),
    'all areas negative': (every(area=-5), 'an area below 0 or above 1e10.*AP would be -1', (-1.0, -1.0)),
    'all areas too large': (every(area=1e11), 'an area below 0 or above 1e10', (-1.0, -1.0)),
    'a number beyond all floats': (annotation(0, area=10**400), r'annotations\[0\] has no valid area', None),
    'a huge box': (annotation(0, bbox=[1, 2, 10**400, 10]), r'annotations\[0\] has no valid bbox', None),
    'a huge polygon': (mask([[1e300, 2, 11, 2, 11, 12]]), 'NaN or infinite coordinates', None),
    'box of NaN': (annotation(0, bbox=[math.nan, 2, 10, 10]), r'1 annotations have NaN.*annotations\[0\]', (1.0, 1.0)),
    'infinite box': (annotation(0, bbox=[1, 2, math.inf, 10]), 'infinite box', (0.626, 1.0)),
    'box of text': (annotation(0, bbox=['1', 2, 10, 10]), 'no valid bbox', (1.0, 1.0)),
    'box of three numbers': (annotation(0, bbox=[1, 2, 10]), 'no valid bbox', Exception),
    'box as a dict': (annotation(0, bbox={'x': 1}), 'no valid bbox', KeyError),
    'no mask': (without('segmentation'), r'1 of the 3 annotations have no `segmentation`', KeyError),
    'mask is null': (mask(None), 'no `segmentation`', TypeError),
    'no polygon': (mask([]), 'no `segmentation`', IndexError),
    'polygon without points': (mask([[]]), r'val_evaluator.*have no polygon.*annotations\[0\]', Exception),
    'polygon of one point': (mask([[1, 2]]), 'no polygon of three points', Exception),
    'polygon of two points': (mask([[1, 2, 11, 12]]), r'no polygon of three points.*metric=bbox.*segmentation', TypeError),
    'polygon of five numbers': (mask([[1, 2, 11, 2, 11]]), 'no polygon of three points', (1.0, 0.626)),
    'two points, then a polygon': (mask([[1, 2, 11, 12], POLYGON]), 'a first one of fewer', TypeError),
    'flat polygon': (mask(POLYGON), r'annotations\[0\] \(id 1, image 10\) is one flat list.*\[\[x1, y1', TypeError),
    'points as pairs': (mask([[[1, 2], [11, 2], [11, 12], [1, 12]]]), r'annotations\[0\].*points in lists of their own', TypeError),
    'nested polygon': (mask([[POLYGON]]), r'annotations\[0\].*points in lists of their own', Exception),
    'text in a polygon': (mask([['1', 2, 11, 2, 11, 12]]), 'coordinates that are not numbers', (1.0, 0.626)),
    'null in a polygon': (mask([[None, 2, 11, 2, 11, 12]]), 'coordinates that are not numbers', None),
    'NaN in a polygon': (mask([[math.nan, 2, 11, 2, 11, 12]]), r'annotations\[0\].*NaN or infinite coordinates', None),
    'infinity in a polygon': (mask([[math.inf, 2, 11, 2, 11, 12]]), 'NaN or infinite coordinates', None),
    'text in place of a polygon': (mask(['abc']), 'a part that is a str', None),
    'mask is text': (mask('abc'), 'is a str', TypeError),
    'mask is a number': (mask(5), 'is a int', TypeError),
    'run lengths without counts': (mask({'size': [30, 40]}), 'run lengths without counts', KeyError),
    'run lengths without size': (mask({'counts': [0, 1200]}), 'run lengths without counts or size', Exception),
    'run lengths with height and width swapped': (
        mask({'size': [40, 30], 'counts': [0, 1200]}),
        r'has size \[40, 30\], but its image is 30 x 40 \(H x W\).*swapped',
        (1.0, 0.626),
    ),
    'run lengths of another image': (mask({'size': [20, 20], 'counts': [0, 400]}), r'has size \[20, 20\]', (1.0, 0.626)),
    'size is text': (mask({'size': ['30', '40'], 'counts': [0, 1200]}), 'has size', TypeError),
    'run lengths are too short': (mask({'size': [30, 40], 'counts': [0, 100]}), 'add up to 100 pixels.*has 1200', None),
    'run lengths are too long': (mask({'size': [30, 40], 'counts': [0, 5000]}), 'add up to 5000 pixels', None),
    'negative run lengths': (mask({'size': [30, 40], 'counts': [-5, 1205]}), 'are invalid', OverflowError),
    'run lengths of another text': (mask({'size': [30, 40], 'counts': 'hello'}), 'run lengths that', (1.0, 0.626)),
    'no run lengths': (mask({'size': [30, 40], 'counts': []}), 'add up to 0 pixels', (1.0, 0.626)),
    'image width is text': (lambda table: table['images'][0].update(width='40'), r'images\[0\] has no valid width', TypeError),
    'image width is 0': (lambda table: table['images'][0].update(width=0), r'images\[0\] has no valid width', (1.0, 0.126)),
    'image of another size': (
        lambda table: table['images'][0].update(width=80, height=60),
        r'0\.jpg has the size \(30, 40\), but the annotation file has \(60, 80\)',
        (1.0, 0.126),
    ),
    'width and height swapped': (
        lambda table: [image.update(width=30, height=40) for image in table['images']],
        r'Width and height are swapped in the annotation file.*\n3 of the 3 images',
        (1.0, 0.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED)
def test_a_file_that_cannot_be_scored_is_refused(scored, report, case):
    change, message, _ = REFUSED[case]
    with pytest.raises((DataError, ValueError), match=f'(?s){message}') as error:
        check_coco(scored(change), report, LOADERS)
    assert 'val.json' in str(error.value) or '.jpg' in str(error.value)


@pytest.mark.parametrize('case', [case for case, (*_, outcome) in REFUSED.items() if outcome is not None])
def test_pycocotools_fails_with_it_or_scores_it_wrongly(tmp_path, case):
    change, _, outcome = REFUSED[case]
    changed = coco_table()
    change(changed)
    if isinstance(outcome, tuple):
        assert perfect_scores(coco_table(), changed, tmp_path / 'val.json') == outcome
    else:
        with pytest.raises(outcome):
            perfect_scores(coco_table(), changed, tmp_path / 'val.json')


# name -> (change, warning); a perfect prediction scores less than 1
LOWERED = {
    'annotation id 0': (annotation(0, id=0), r'id 0.*too low.*from 1 instead of 0.*annotations\[0\]'),
    'box without width': (annotation(0, bbox=[1, 2, 0, 10]), r'1 annotations have a box without extent.*missed.*annotations\[0\]'),
    'box with a negative width': (annotation(0, bbox=[11, 2, -10, 10]), '1 annotations have a box without extent'),
    'box outside of its image': (annotation(0, bbox=[100, 100, 10, 10]), 'outside of their image.*missed'),
    'object twice': (
        lambda table: table['annotations'].append({**table['annotations'][0], 'id': 9}),
        r'1 annotations repeat another one.*bbox \[1.0, 2.0, 10.0, 10.0\] in image 10',
    ),
    'polygon outside of its image': (
        mask([[value + 100 for value in POLYGON]]),
        r'1 of 3 masks cover no pixel of their image.*annotations\[0\]',
    ),
    'polygon without extent': (mask([[1, 1, 1, 1, 1, 1]]), 'masks cover no pixel'),
    'category of no class': (annotation(0, category_id=99), r'1 annotations belong to an image or a category.*annotations\[0\]'),
    'image that is not listed': (annotation(0, image_id=99), '1 annotations belong to an image or a category that'),
}  # fmt: skip


@pytest.mark.parametrize('case', LOWERED)
def test_what_lowers_the_score_is_a_warning(scored, report, tmp_path, case):
    change, message = LOWERED[case]
    check_coco(scored(change), report, LOADERS)
    assert [warning for warning in report.warnings if 'val.json' in warning and re.search(message, warning)], report.warnings
    changed = coco_table()
    change(changed)
    assert min(perfect_scores(coco_table(), changed, tmp_path / 'val.json')) < 1


UNCHANGED = {
    'ids are whole floats': lambda table: (
        [row.update(id=float(row['id'])) for row in (*table['images'], *table['categories'], *table['annotations'])],
        [row.update(image_id=float(row['image_id']), category_id=float(row['category_id'])) for row in table['annotations']],
    ),
    'valid': lambda table: None,
    'iscrowd is false': every(iscrowd=False),
    'one crowd': annotation(0, iscrowd=1),
    'ids from 100': lambda table: [row.update(id=row['id'] + 100) for row in table['annotations']],
    'text as image ids': text_image_ids,
    'image id 0': lambda table: (table['images'][0].update(id=0), [row.update(image_id=0) for row in table['annotations'][:2]]),
    'another category': lambda table: table['categories'].append({'id': 9, 'name': 'kiwi'}),
    'a second part of two points': mask([POLYGON, [1, 2, 11, 12]]),
    'a polygon in two parts': mask([[1, 2, 11, 2, 11, 12, 1, 12], [3, 4, 5, 4, 5, 6]]),
    'width is a float': lambda table: table['images'][0].update(width=40.0),
    'no annotation of a class': lambda table: table['annotations'].pop(1),
}


@pytest.mark.parametrize('case', UNCHANGED)
def test_other_files_are_scored_without_a_warning(scored, report, tmp_path, case):
    changed = coco_table()
    UNCHANGED[case](changed)
    check_coco(scored(UNCHANGED[case]), report, LOADERS)
    assert not report.warnings
    assert perfect_scores(coco_table(), changed, tmp_path / 'val.json') == (1.0, 1.0)


def test_ignore_is_no_field_of_pycocotools(scored, report, tmp_path):
    change = annotation(0, ignore=1)
    check_coco(scored(change), report, LOADERS)
    assert 'have ignore=1, which pycocotools does not read' in report.warnings[0]
    changed = coco_table()
    change(changed)
    table = coco_table()
    table['annotations'].pop(0)  # a detector that learned to ignore it
    assert perfect_scores(table, changed, tmp_path / 'val.json')[0] < 1


def test_boxes_are_scored_without_masks(scored, report):
    check_coco(scored(metric='bbox'), report, LOADERS)
    cfg = scored(mask([[1, 2, 11, 12]]), metric='bbox')
    check_coco(cfg, report, LOADERS)
    cfg.val_evaluator.metric = 'segm'
    with pytest.raises(DataError, match='no polygon of three points'):
        check_coco(cfg, report, LOADERS)


OPTIONS = {
    'no metric': ({'metric': []}, r'val_evaluator\.metric: expected some of bbox.*got none'),
    'unknown metric': ({'metric': 'mAP'}, r'val_evaluator\.metric: .*got mAP'),
    'unknown item': ({'metric': 'bbox', 'metric_items': ['mAP', 'mAP_x']}, r'val_evaluator\.metric_items: .*mAP_50.*got mAP_x'),
}


@pytest.mark.parametrize('case', OPTIONS)
def test_options_of_the_evaluator(scored, report, case):
    options, message = OPTIONS[case]
    with pytest.raises(DataError, match=message):
        check_coco(scored(**options), report, LOADERS)
    check_coco(scored(metric=['bbox', 'proposal_fast'], metric_items=['mAP', 'AR@100']), report, LOADERS)


@pytest.mark.parametrize('name', ['bbox_mAP', 'coco/segm_mAP', 'coco/bbox_AP'])
def test_the_best_checkpoint_is_chosen_by_a_score(scored, report, name):
    cfg = scored(metric='bbox')
    cfg.default_hooks = {'checkpoint': {'type': 'CheckpointHook', 'save_best': name}}
    with pytest.raises(DataError, match=f'save_best={name!r} is not a score'):
        check_coco(cfg, report, LOADERS)
    for right in ('auto', 'coco/bbox_mAP_50', ['coco/bbox_mAP']):
        cfg.default_hooks.checkpoint.save_best = right
        check_coco(cfg, report, LOADERS)


def test_one_negative_area_is_a_warning(scored, report):
    check_coco(scored(annotation(0, area=-5)), report, LOADERS)
    assert [warning for warning in report.warnings if '1 annotations have an area below 0' in warning]


def test_several_datasets_of_one_evaluator(scored, write_coco, report, tmp_path):
    cfg = scored()
    leaf = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = {'type': 'ConcatDataset', 'datasets': [leaf, leaf]}
    with pytest.raises(DataError, match=r'image id 1\d is in 2 of the datasets.*Read each image once'):
        check_coco(cfg, report, LOADERS)

    def other_ids(table):
        for rows, key in ((table['images'], 'id'), (table['annotations'], 'image_id')):
            for row in rows:
                row[key] += 100

    cfg.val_dataloader.dataset['datasets'][1] = write_coco(other_ids, name='more.json', with_mask=True) | {'test_mode': True}
    with pytest.raises(DataError, match=r'does not list 3 images of .*more\.json'):
        check_coco(cfg, report, LOADERS)


def test_masks_need_a_model_that_predicts_them(scored, report):
    cfg = scored()
    cfg.model = {'type': 'RetinaNet', 'bbox_head': {'type': 'RetinaHead'}}
    with pytest.raises(DataError, match=r'val_evaluator compares masks.*only boxes.*metric=bbox'):
        check_coco(cfg, report, LOADERS)
    cfg.model.bbox_head.type = 'HeadOfAUser'  # which may predict masks
    check_coco(cfg, report, LOADERS)


def test_without_a_file_the_samples_must_have_the_objects(scored, report):
    cfg = scored(ann_file=None)
    check_coco(cfg, report, LOADERS)  # its pipeline packs nothing
    steps = cfg.val_dataloader.dataset.pipeline
    cfg.val_dataloader.dataset.pipeline = [*steps, {'type': 'PackDetInputs', 'meta_keys': ('img_id', 'ori_shape')}]
    with pytest.raises(DataError, match=r"val_evaluator\.ann_file.*'instances' to meta_keys"):
        check_coco(cfg, report, LOADERS)
    cfg.val_dataloader.dataset.pipeline[-1].meta_keys = ('img_id', 'ori_shape', 'instances')
    check_coco(cfg, report, LOADERS)


def test_files_without_scores_are_not_judged_by_the_evaluator(detection, write_coco, report):
    cfg = detection(val=write_coco(without('iscrowd'), name='val.json'))
    check_coco(cfg, report, LOADERS)
    cfg.val_evaluator = {'type': 'CocoMetric', 'format_only': True, 'outfile_prefix': 'out'}
    check_coco(cfg, report, LOADERS)
    assert not report.warnings


def test_another_file_of_the_evaluator_is_checked_too(scored, write_coco, report, tmp_path):
    cfg = scored(ann_file=str(tmp_path / 'other.json'))
    write_coco(without('iscrowd'), name='other.json')
    with pytest.raises(DataError, match=r'val_evaluator\.ann_file: .*other\.json: 1 of 3 annotations have no `iscrowd`'):
        check_coco(cfg, report, LOADERS)
    write_coco(lambda table: table['categories'].reverse(), name='other.json')
    with pytest.raises(DataError, match=r"same order of categories.*label 0 is 'date' in the first and 'fig'"):
        check_coco(cfg, report, LOADERS)


def test_every_metric_of_a_list_is_checked(scored, report):
    cfg = scored(without('iscrowd'))
    cfg.val_evaluator = [{'type': 'DumpDetResults', 'out_file_path': 'a.pkl'}, cfg.val_evaluator]
    with pytest.raises(DataError, match='no `iscrowd`'):
        check_coco(cfg, report, LOADERS)
    cfg.val_evaluator = {'type': 'Evaluator', 'metrics': cfg.val_evaluator}
    with pytest.raises(DataError, match='no `iscrowd`'):
        check_coco(cfg, report, LOADERS)


@pytest.mark.parametrize('changes', [{'indices': 1}, {'test_mode': False}])
def test_images_that_are_scored_and_not_read_are_a_warning(scored, report, changes):
    cfg = scored()
    cfg.val_dataloader.dataset.update(changes)
    check_coco(cfg, report, LOADERS)
    assert [warning for warning in report.warnings if 'scores all 3 images of its file' in warning]


def test_classes_of_one_side_are_reported(scored, write_coco, report):
    cfg = scored()
    cfg.train_dataloader.dataset = write_coco(lambda table: table['annotations'].pop(1))
    check_coco(cfg, report, LOADERS)
    (warning,) = report.warnings
    assert '1 classes have objects in validation and none in training: fig. Their AP will be 0' in warning
    cfg = scored(lambda table: table['annotations'].pop(1))
    cfg.train_dataloader.dataset = write_coco()
    other = type(report)()
    check_coco(cfg, other, LOADERS)
    assert not other.warnings
    assert [note for note in other.notes if '1 classes have objects in training and none in validation: fig' in note]


def test_a_test_checks_what_it_scores(scored, report, write_coco):
    cfg = scored(without('iscrowd'))
    cfg.test_dataloader, cfg.test_evaluator = copy.deepcopy(cfg.val_dataloader), cfg.val_evaluator
    with pytest.raises(DataError, match=r'test_dataloader\.dataset: .*no `iscrowd`'):
        check_scored(cfg, report, ('test_dataloader',))
    cfg.test_evaluator = {'type': 'CocoMetric', 'format_only': True, 'outfile_prefix': 'out'}
    check_scored(cfg, report, ('test_dataloader',))

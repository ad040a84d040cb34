"""COCO files whose boxes or masks contradict their images: counted, with the likely reason."""

import re

import numpy as np
import pytest

from mmfreq.errors import DataError, InputError
from mmfreq.preflight.coco import check_coco
from mmfreq.preflight.coco.masks import _pixels

pytest.importorskip('mmdet')
LOADERS = ('train_dataloader', 'val_dataloader')


def many(table):
    """Five of each annotation: in small files only another convention that explains all of it is refused."""
    table['annotations'] = [{**row, 'id': 5 * row['id'] + copy} for row in table['annotations'] for copy in range(5)]


def boxes(convert, masks=None):
    """Change each box (x, y, w, h) in an image of 40 x 30, and each polygon, seen as points (N, 2)."""

    def change(table):
        many(table)
        for row in table['annotations']:
            row['bbox'] = list(convert(*row['bbox']))
            if masks is not None:
                points = np.array(row['segmentation'][0], float).reshape(-1, 2)
                row['segmentation'] = [masks(points).reshape(-1).tolist()]

    return change


def corners(*boxes, masks=True):
    """Boxes (x, y, w, h) written as x, y, x + w, y + h, with right areas and polygons."""

    def change(table):
        for row, (x, y, w, h) in zip(table['annotations'], boxes):
            row.update(bbox=[x, y, x + w, y + h], area=w * h, segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]])
            if not masks:  # of another shape, which says nothing: as run lengths whose text is not decoded
                row['segmentation'] = [[x, y, x + w, y]]

    return change


REFUSED = {
    'corners': (
        corners([10, 8, 12, 10], [14, 10, 20, 15], [20, 12, 10, 10]),
        r'2 of 3 boxes reach beyond their image\. They are corners, x1 y1 x2 y2',
    ),
    'corners without masks': (
        corners([10, 8, 12, 10], [14, 10, 20, 15], [20, 12, 10, 10], masks=False),
        r'of 3 boxes .*They are corners, x1 y1 x2 y2',
    ),
    'corners within their images': (
        corners([2, 7, 4, 5], [8, 4, 6, 5], [7, 8, 5, 4]),
        r'3 of 3 boxes contradict their masks or areas.*corners, x1 y1 x2 y2',
    ),
    'almost all fractions': (
        lambda table: (many(table), many(table), [row.update(bbox=[0.1, 0.2, 0.3, 0.4]) for row in table['annotations'][1:]]),
        '74 of 75 boxes are smaller than one pixel.*fractions',
    ),
    'upside down': (
        lambda table: (many(table), [row.update(bbox=[5, 40, 20, 20]) for row in table['annotations']]),
        '15 of 15 boxes reach beyond',
    ),
    'fractions': (
        boxes(lambda x, y, w, h: (x / 40, y / 30, w / 40, h / 30)),
        r'15 of 15 boxes are smaller than one pixel.*fractions of the image: multiply x',
    ),
    'fractions of masks': (
        boxes(lambda *box: box, lambda points: points / (40, 30)),
        r'15 of 15 masks cover no pixel.*fractions of the image',
    ),
    'twice the size': (
        boxes(lambda *box: tuple(2 * value for value in box), lambda points: 2 * points),
        r'10 of 15 boxes reach beyond.*images of 40 x 30, boxes reach to 80 x 60',
    ),
    'far outside': (boxes(lambda x, y, w, h: (x + 100, y, w, h)), r'15 of 15 boxes reach beyond.*annotations\[0\]:'),
    'masks far outside': (
        boxes(lambda *box: box, lambda points: points + 100),
        r'15 of 15 masks cover no pixel of their image.*pixels of their image',
    ),
}  # fmt: skip


@pytest.mark.parametrize('side', ['train', 'val'])
@pytest.mark.parametrize('case', REFUSED)
def test_a_file_in_another_convention_is_refused(detection, write_coco, report, case, side):
    change, message = REFUSED[case]
    cfg = detection(**{side: write_coco(change, name=f'{side}.json', with_mask=True)})
    with pytest.raises(DataError, match=message) as error:
        check_coco(cfg, report, LOADERS)
    assert f'{side}.json' in str(error.value)


def of_first(change):
    return lambda table: change(table['annotations'][0])


WARNED = {
    'one box over the border': (of_first(lambda row: row.update(bbox=[35, 2, 20, 10])), r'1 of 3 boxes reach.*annotations\[0\]'),
    'one box before the image': (of_first(lambda row: row.update(bbox=[-9, 2, 20, 10])), r'1 of 3 boxes reach beyond'),
    'one polygon outside': (
        of_first(lambda row: row.update(segmentation=[[100, 100, 110, 100, 110, 110]])),
        r'1 of 3 masks cover no pixel of their image',
    ),
    'one polygon beside its box': (
        of_first(lambda row: row.update(segmentation=[[20, 20, 30, 20, 30, 29]])),
        r'1 of 3 masks reach beyond their boxes.*annotations\[0\]',
    ),
    'one polygon with x and y swapped': (
        of_first(lambda row: row.update(bbox=[20, 2, 10, 5], segmentation=[[2, 20, 7, 20, 7, 29, 2, 30]])),
        r'1 of 3 masks reach beyond their boxes.*fit with x and y exchanged',
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', WARNED)
def test_single_contradictions_are_counted(detection, write_coco, report, case):
    change, message = WARNED[case]
    check_coco(detection(write_coco(change, with_mask=True)), report, LOADERS)
    assert [warning for warning in report.warnings if 'train.json' in warning and re.search(message, warning)], report.warnings


def test_rounding_and_one_box_of_many_are_no_warnings(detection, write_coco, report):
    def change(table):
        rows = table['annotations']
        rows[2].update(bbox=[0, 0, 41, 31], segmentation=[[0, 0, 40.5, 0, 40.5, 30.5, 0, 30.5]])
        rows += [{**rows[1], 'id': 100 + index} for index in range(100)] + [{**rows[1], 'id': 99, 'bbox': [30, 5, 20, 20]}]

    check_coco(detection(write_coco(change)), report, LOADERS)
    assert not report.warnings
    assert [note for note in report.notes if '1 of 104 boxes reach beyond' in note]


def test_width_and_height_of_the_images_swapped(detection, write_coco, report):
    def change(table):
        for image in table['images']:
            image.update(width=30, height=40)

    with pytest.raises((DataError, InputError), match=r'idth and height.* swapped'):
        check_coco(detection(write_coco(change)), report, LOADERS)


def test_many_swapped_sizes_are_recognized_by_the_boxes(detection, write_coco, report):
    def change(table):
        for image in table['images']:
            image.update(width=30, height=40)
        table['annotations'] = [
            {**table['annotations'][0], 'id': 1 + index, 'bbox': [22, index % 5, 18, 25]} for index in range(20)
        ]

    with pytest.raises(DataError, match=r'20 of 20 boxes reach beyond.*fit with x and y exchanged: check `width` and `height`'):
        check_coco(detection(write_coco(change)), report, LOADERS)


def masks_of(segmentation):
    return lambda table: [row.update(segmentation=segmentation) for row in table['annotations']]


LOST = {
    'all masks of two points': masks_of([[1, 2, 11, 12]]),
    'all masks of five numbers': masks_of([[1, 2, 11, 12, 3]]),
    'all masks without a point': masks_of([[]]),
    'all run lengths without counts': masks_of({'size': [30, 40]}),
    'all masks lists of run lengths': masks_of([{'size': [30, 40], 'counts': [0, 1200]}]),
    'only crowds': lambda table: [row.update(iscrowd=1) for row in table['annotations']],
}


@pytest.mark.parametrize('case', LOST)
def test_without_a_usable_annotation_training_is_refused(detection, write_coco, report, case):
    with pytest.raises(DataError, match='no annotation is left for training, of 3') as error:
        check_coco(detection(write_coco(LOST[case], with_mask=True)), report, LOADERS)
    assert 'train.json' in str(error.value)
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations

    leaf = write_coco(LOST[case], with_mask=True)
    dataset = CocoDataset(**{key: value for key, value in leaf.items() if key not in ('type', 'pipeline')}, pipeline=[])
    sample = LoadAnnotations(with_mask=True)(dataset.get_data_info(0) | {'ori_shape': (30, 40)})
    assert all(sample['gt_ignore_flags'])  # so mmdet trains with a loss of 0


def test_id_types_explain_that_nothing_is_left(detection, write_coco, report):
    def change(table):
        for row in table['annotations']:
            row['image_id'] = str(row['image_id'])

    leaf = write_coco(change, filter_cfg=None)
    with pytest.raises(DataError, match=r"no annotation is left.*Image ids are \{'int'\} in `images`, and \{'str'\}"):
        check_coco(detection(leaf), report, LOADERS)


def test_backslashes_in_file_names_are_named(detection, write_coco, report):
    change = lambda table: table['images'][0].update(file_name='sub\\0.jpg')  # noqa: E731
    with pytest.raises(DataError, match=r"Windows' backslashes: write / instead of"):
        check_coco(detection(write_coco(change)), report, LOADERS)


def test_an_error_of_an_annotation_does_not_blame_the_image(write_coco):
    """For files that are not checked before the run, such as those of subclasses."""
    from mmdet.datasets import CocoDataset
    from mmengine.dataset import Compose
    from mmengine.registry import init_default_scope

    from mmfreq.preflight.samples import GuardedPipeline

    init_default_scope('mmdet')
    leaf = write_coco(lambda table: table['annotations'][1].update(segmentation=[5, 5, 25, 5, 25, 25, 5, 25]), with_mask=True)
    dataset = CocoDataset(**{key: value for key, value in leaf.items() if key not in ('type', 'pipeline')}, pipeline=[])
    pipeline = GuardedPipeline(Compose(leaf['pipeline']))
    with pytest.raises(InputError, match=r'Annotation 1 of the 2 of image .*0\.jpg cannot be loaded: TypeError.*annotation file'):
        pipeline(dataset.get_data_info(0))
    assert pipeline(dataset.get_data_info(1))['gt_masks'].masks.shape == (1, 30, 40)


def test_text_of_run_lengths_is_decoded_as_pycocotools_does():
    from pycocotools import mask as coco_masks

    rng = np.random.default_rng(0)
    for _ in range(50):
        size = tuple(rng.integers(1, 60, 2))
        runs = coco_masks.encode(np.asfortranarray(rng.random(size) < rng.random(), np.uint8))
        assert _pixels(runs['counts'].decode()) == size[0] * size[1]
    assert _pixels('') is None and _pixels('~~') is None


def at_the_border(*boxes, areas=None):
    """Objects that the border of an image of 40 x 30 cuts, drawn beyond it."""

    def change(table):
        rows = table['annotations']
        del rows[len(boxes) :]
        for row, (x, y, w, h) in zip(rows, boxes):
            row.update(bbox=[x, y, w, h], area=w * h, segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]])

    return change


FINE = {
    'cut by the left border': at_the_border([-2, 10, 20, 15], [-2, 10, 20, 15], [-2, 5, 25, 20]),
    'one object': at_the_border([-2, 5, 30, 20]),
    'the whole image, and a bit more': at_the_border([1, 1, 41, 31], [2, 0, 40, 31]),
    'one of two is hidden': at_the_border([-7, 5, 25, 20], [5, 5, 20, 20]),
    'small objects in the corner': at_the_border([0, 0, 3, 3], [1, 1, 4, 4], [2, 2, 5, 5]),
    'boxes of the visible part': lambda table: [row.update(area=row['area'] / 3) for row in table['annotations']],
}


@pytest.mark.parametrize('with_mask', [False, True])
@pytest.mark.parametrize('case', FINE)
def test_objects_at_the_border_are_no_false_alarm(detection, write_coco, report, case, with_mask):
    check_coco(detection(write_coco(FINE[case], with_mask=with_mask)), report, LOADERS)
    text = ' '.join(report.warnings)
    assert 'corners' not in text and 'exchanged' not in text and 'fractions' not in text


def runs(change):
    """Masks as run lengths, of `change(mask)` (H, W)."""

    def to_runs(table):
        from pycocotools import mask as coco_masks

        many(table)
        for row in table['annotations']:
            x, y, w, h = row['bbox']
            mask = np.zeros((30, 40), np.uint8)
            mask[y : y + h, x : x + w] = 1
            code = coco_masks.encode(np.asfortranarray(change(mask)))
            row['segmentation'] = {'size': [30, 40], 'counts': code['counts'].decode()}

    return to_runs


RUNS = {
    'inverted': (lambda mask: 1 - mask, 'of 10 masks reach beyond their boxes.*begin with the background'),
    'along the rows': (lambda mask: mask.T.reshape(30, 40), 'of 15 masks reach beyond their boxes.*down the columns'),
    'empty': (lambda mask: 0 * mask, '15 of 15 masks cover no pixel'),
    'of other objects': (lambda mask: mask[::-1, ::-1], 'of 15 masks reach beyond their boxes'),
}


@pytest.mark.parametrize('case', RUNS)
def test_run_lengths_are_compared_with_the_boxes(detection, write_coco, report, case):
    change, message = RUNS[case]
    try:
        check_coco(detection(write_coco(runs(change), with_mask=True)), report, LOADERS)
        text = ' '.join(report.warnings)
    except DataError as error:
        text = str(error)
    assert re.search(message, text), text
    other = type(report)()
    check_coco(detection(write_coco(runs(lambda mask: mask), with_mask=True)), other, LOADERS)
    assert not other.warnings


def test_areas_larger_than_their_boxes_are_a_warning(detection, write_coco, report):
    def change(table):
        many(table)
        for row in table['annotations']:
            row['bbox'] = [value / 2 for value in row['bbox']]

    check_coco(detection(write_coco(change)), report, LOADERS)
    assert [warning for warning in report.warnings if '15 of 15 annotations have an `area` larger than their box' in warning]


def test_many_skipped_annotations_are_a_warning(detection, write_coco, report):
    def change(table):
        many(table)
        for row in table['annotations'][2:]:
            row['ignore'] = 1

    check_coco(detection(write_coco(change, filter_cfg=None)), report, LOADERS)
    assert [warning for warning in report.warnings if 'silently skips annotations: 13 have ignore=1' in warning]


def test_images_that_are_listed_twice_are_a_warning(detection, write_coco, report):
    change = lambda table: table['images'].append({**table['images'][0], 'id': 99})  # noqa: E731
    check_coco(detection(write_coco(change)), report, LOADERS)
    assert [warning for warning in report.warnings if r'1 images are listed again under another id, such as 0.jpg' in warning]

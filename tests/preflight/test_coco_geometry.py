"""COCO files whose boxes or masks contradict their images: counted, with the likely reason."""

import re

import numpy as np
import pytest

from mmfreq.errors import DataError, InputError
from mmfreq.preflight.coco import check_coco
from mmfreq.preflight.coco.masks import _pixels

pytest.importorskip('mmdet')
LOADERS = ('train_dataloader', 'val_dataloader')


def boxes(convert, masks=None):
    """Change each box (x, y, w, h) in an image of 40 x 30, and each polygon, seen as points (N, 2)."""

    def change(table):
        for row in table['annotations']:
            row['bbox'] = list(convert(*row['bbox']))
            if masks is not None:
                points = np.array(row['segmentation'][0], float).reshape(-1, 2)
                row['segmentation'] = [masks(points).reshape(-1).tolist()]

    return change


def small_corners(table):
    """Corners of objects in the upper left quarter: no box leaves its image."""
    for row, box in zip(table['annotations'], ([2, 3, 4, 5], [6, 4, 6, 5], [7, 8, 5, 4])):
        x, y, w, h = box
        row['bbox'] = [x, y, x + w, y + h]
        row['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def centers(x, y, w, h):
    return x + w / 2, y + h / 2, w, h


REFUSED = {
    'corners': (boxes(lambda x, y, w, h: (x, y, x + w, y + h)), r'2 of 3 boxes reach beyond their image|boxes contradict.*corners'),
    'corners within their images': (small_corners, r'3 of 3 boxes contradict their masks.*corners, x1 y1 x2 y2'),
    'fractions': (
        boxes(lambda x, y, w, h: (x / 40, y / 30, w / 40, h / 30)),
        r'3 of 3 boxes are smaller than one pixel.*fractions of the image: multiply x',
    ),
    'fractions of masks': (
        boxes(lambda *box: box, lambda points: points / (40, 30)),
        r'3 of 3 polygons cover no pixel.*fractions of the image',
    ),
    'twice the size': (
        boxes(lambda *box: tuple(2 * value for value in box), lambda points: 2 * points),
        r'2 of 3 boxes reach beyond.*images of 40 x 30 boxes reach to 80 x 60',
    ),
    'far outside': (boxes(lambda x, y, w, h: (x + 100, y, w, h)), r'3 of 3 boxes reach beyond.*annotations\[0\] is'),
    'centers': (boxes(centers), r'of 3 (boxes reach beyond their image|polygons reach beyond their boxes.*another convention)'),
    'masks far outside': (
        boxes(lambda *box: box, lambda points: points + 100),
        r'3 of 3 polygons cover no pixel of their image.*pixels of their image',
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
        r'1 of 3 polygons cover no pixel of their image',
    ),
    'one polygon beside its box': (
        of_first(lambda row: row.update(segmentation=[[20, 20, 30, 20, 30, 29]])),
        r'1 of 3 polygons reach beyond their boxes.*annotations\[0\]',
    ),
    'one polygon with x and y swapped': (
        of_first(lambda row: row.update(bbox=[20, 2, 10, 5], segmentation=[[2, 20, 7, 20, 7, 29, 2, 30]])),
        r'1 of 3 polygons reach beyond their boxes.*fit with x and y swapped',
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
            {**table['annotations'][0], 'id': 1 + index, 'bbox': [20, index % 10, 18, 15]} for index in range(20)
        ]

    with pytest.raises(DataError, match=r'20 of 20 boxes reach beyond.*fit if width and height of the images are swapped'):
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

"""Image and label pairs of segmentation datasets."""

import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from mmfreq.errors import DataError
from mmfreq.preflight.segmentation import check_pairs

LOADERS = ('train_dataloader', 'val_dataloader')
KEY = 'train_dataloader.dataset'


@pytest.fixture
def root(cfg, toy_root, tmp_path):
    """A copy of the data; the config reads it."""
    root = shutil.copytree(toy_root, tmp_path / 'data')
    for loader in LOADERS:
        cfg[loader].dataset.data_root = str(root)
    return root


def label(root, index=0):
    return sorted((root / 'annotations' / 'training').iterdir())[index]


def image(root, index=0):
    return sorted((root / 'images' / 'training').iterdir())[index]


def rewrite(path, change):
    pixels = change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    assert cv2.imwrite(str(path), pixels)


def set_exif_orientation(root):
    path = image(root)
    exif = Image.Exif()
    exif[274] = 6
    rewrite(path, lambda pixels: pixels[:40])
    Image.open(path).save(path, exif=exif)
    rewrite(label(root), lambda labels: labels[:40])


REFUSED = {
    'no label': (
        lambda root: label(root).unlink(),
        r'1 of the 8 images.*train_00000\.jpg.*train_00000\.png.*seg_map_suffix',
    ),
    'no labels': (lambda root: [label(root).unlink() for _ in range(8)], r'8 of the 8 images.* 5 more'),
    'other suffix': (
        lambda root: [path.rename(path.with_suffix('.JPG')) for path in (root / 'images/training').iterdir()],
        r'\.jpg.*\.JPG.*--cfg-options train_dataloader\.dataset\.img_suffix=\.JPG',
    ),
    'label out of range': (
        lambda root: rewrite(label(root), lambda x: x * 0 + 7),
        r'\b6\b.*\b4096 pixels.*reduce_zero_label',
    ),
    'RGB label': (
        lambda root: rewrite(label(root), lambda x: np.stack([x] * 3, -1)),
        r'\b3 channels.*one channel',
    ),
    '16 bits': (
        lambda root: rewrite(label(root), lambda x: x.astype(np.uint16) + 256),
        r'\b26\d\b.*\b8 bits',
    ),
    'another size': (lambda root: rewrite(label(root), lambda x: x[:32]), r'\(32, 64\).*\(64, 64\)'),
    'turned': (set_exif_orientation, r'EXIF.*color_ignore_orientation'),
    'truncated image': (lambda root: image(root).write_bytes(image(root).read_bytes()[:900]), r'train_00000\.jpg'),
    'truncated label': (lambda root: label(root).write_bytes(label(root).read_bytes()[:60]), r'train_00000\.png'),
    'text': (lambda root: image(root).write_text('<html>'), r'train_00000\.jpg'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_error_names_the_file_and_the_fix(cfg, root, report, case):
    change, message = REFUSED[case]
    change(root)
    with pytest.raises(DataError, match=message) as error:
        check_pairs(cfg, report, LOADERS)
    assert str(error.value).startswith(KEY)


def test_valid_pairs_are_counted(cfg, root, report):
    check_pairs(cfg, report, LOADERS)
    assert not report.warnings and not report.notes
    counts = report.data[KEY]
    assert (counts.total, counts.classes) == (8, 6) and report.data['val_dataloader.dataset'].total == 2


def test_invalid_labels_are_counted(cfg, root, report):
    for index in range(8):
        rewrite(label(root, index), lambda labels: labels * 0 + 9)
    with pytest.raises(DataError, match=r'(?s)train_00000\.png.*\b8\b.*8 of the 8 pairs'):
        check_pairs(cfg, report, LOADERS)


def test_unused_files_are_reported(cfg, root, report):
    image(root).unlink()
    shutil.copy(image(root), root / 'images' / 'training' / 'more.jpeg')
    check_pairs(cfg, report, LOADERS)
    assert (
        len(report.notes) == 1 and KEY in report.notes[0] and '1 label' in report.notes[0] and str(label(root)) in report.notes[0]
    )
    assert '1 image' in report.warnings[0] and 'more.jpeg' in report.warnings[0]


def test_labels_with_only_ignored_pixels_are_refused(cfg, root, report):
    for index in range(8):
        rewrite(label(root, index), lambda labels: labels * 0)
    with pytest.raises(DataError, match=r'all pixels.*\b8 label maps are ignored, so .*reduce_zero_label=False'):
        check_pairs(cfg, report, LOADERS)


def test_a_list_of_names_is_compared_with_the_folder(cfg, root, report):
    (root / 'split.txt').write_text('train_00000\ntrain_00001\n')
    cfg.train_dataloader.dataset.ann_file = 'split.txt'
    check_pairs(cfg, report, LOADERS)
    assert report.data[KEY].total == 2 and not report.notes  # the folder has labels of other splits
    (root / 'split.txt').write_text('train_00000\nelsewhere\n')
    with pytest.raises(DataError, match=r'1 of the 2 images.*split\.txt.*elsewhere\.jpg'):
        check_pairs(cfg, report, LOADERS)


def test_a_pipeline_that_loads_labels_needs_their_folder(cfg, root, report):
    del cfg.train_dataloader.dataset.data_prefix['seg_map_path']
    with pytest.raises(DataError, match=r'train_dataloader\.dataset\.data_prefix\.seg_map_path'):
        check_pairs(cfg, report, LOADERS)


def test_a_dataset_that_cannot_be_listed_is_left_to_the_runner(cfg, root, report):
    cfg.train_dataloader.dataset.ann_file = 'garbled.txt'
    (root / 'garbled.txt').write_bytes(b'\xff\xfe')  # not text: mmseg cannot read the list
    check_pairs(cfg, report, LOADERS)
    assert KEY not in report.data and 'val_dataloader.dataset' in report.data

"""Images and labels: files without their partner, and what a sample of them shows."""

import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from mmfreq.engine.errors import DataError
from mmfreq.engine.preflight.pairs import check_pairs

LOADERS = ('train_dataloader', 'val_dataloader')
KEY = 'train_dataloader.dataset'


@pytest.fixture
def root(cfg, toy_root, tmp_path):
    """The folder of a copy of the data, which the config names."""
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


def turn_by_exif(root):
    path = image(root)
    exif = Image.Exif()
    exif[274] = 6
    rewrite(path, lambda pixels: pixels[:40])
    Image.open(path).save(path, exif=exif)
    rewrite(label(root), lambda labels: labels[:40])


REFUSED = {
    'no label': (
        lambda root: label(root).unlink(),
        r'1 of the 8 images have no label: .*train_00000\.jpg\. Looked for .*train_00000\.png.*seg_map_suffix',
    ),
    'no labels': (lambda root: [label(root).unlink() for _ in range(8)], r'8 of the 8 images have no label: .* and 5 more'),
    'other suffix': (
        lambda root: [path.rename(path.with_suffix('.JPG')) for path in (root / 'images/training').iterdir()],
        r'whose name ends with .*\.jpg.*there are files \.JPG: --cfg-options train_dataloader\.dataset\.img_suffix=\.JPG',
    ),
    'label out of range': (
        lambda root: rewrite(label(root), lambda x: x * 0 + 7),
        r'holds the labels 6 in 4096 pixels.*reduce_zero_label',
    ),
    'RGB label': (
        lambda root: rewrite(label(root), lambda x: np.stack([x] * 3, -1)),
        r'is read as 3 channels.*expected one channel',
    ),
    '16 bits': (
        lambda root: rewrite(label(root), lambda x: x.astype(np.uint16) + 256),
        r'holds values up to 26\d and is read as 8 bits',
    ),
    'another size': (lambda root: rewrite(label(root), lambda x: x[:32]), r'has the size \(32, 64\) and its image .* \(64, 64\)'),
    'turned': (turn_by_exif, r'turned by its EXIF orientation.*color_ignore_orientation'),
    'truncated image': (lambda root: image(root).write_bytes(image(root).read_bytes()[:900]), r'train_00000\.jpg'),
    'truncated label': (lambda root: label(root).write_bytes(label(root).read_bytes()[:60]), r'train_00000\.png cannot be loaded'),
    'text': (lambda root: image(root).write_text('<html>'), r'train_00000\.jpg cannot be loaded'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_each_fault_is_told_with_file_and_remedy(cfg, root, report, case):
    change, told = REFUSED[case]
    change(root)
    with pytest.raises(DataError, match=told) as error:
        check_pairs(cfg, report, LOADERS)
    assert str(error.value).startswith(KEY)


def test_good_pairs_are_counted(cfg, root, report):
    check_pairs(cfg, report, LOADERS)
    assert not report.warnings and not report.notes
    seen = report.data[KEY]
    assert (seen.total, seen.classes) == (8, 6) and report.data['val_dataloader.dataset'].total == 2


def test_several_faulty_labels_are_counted(cfg, root, report):
    for index in range(8):
        rewrite(label(root, index), lambda labels: labels * 0 + 9)
    with pytest.raises(DataError, match=r'train_00000\.png holds the labels 8 .*\nSo 8 of the 8 pairs that were looked at'):
        check_pairs(cfg, report, LOADERS)


def test_files_without_use_are_noted(cfg, root, report):
    image(root).unlink()
    shutil.copy(image(root), root / 'images' / 'training' / 'more.jpeg')
    check_pairs(cfg, report, LOADERS)
    assert report.notes == [f'{KEY}: 1 labels have no image, and are not used: {label(root)}.']
    assert '1 images are left out' in report.warnings[0] and 'more.jpeg' in report.warnings[0]


def test_labels_of_ignored_pixels_alone_are_warned_of(cfg, root, report):
    for index in range(8):
        rewrite(label(root, index), lambda labels: labels * 0)
    check_pairs(cfg, report, LOADERS)
    assert 'all pixels of the 8 labels that were looked at are ignored (255)' in report.warnings[0]


def test_a_list_of_names_is_held_against_the_folder(cfg, root, report):
    (root / 'split.txt').write_text('train_00000\ntrain_00001\n')
    cfg.train_dataloader.dataset.ann_file = 'split.txt'
    check_pairs(cfg, report, LOADERS)
    assert report.data[KEY].total == 2 and not report.notes  # labels of other splits lie in the same folder
    (root / 'split.txt').write_text('train_00000\nelsewhere\n')
    with pytest.raises(DataError, match=r'1 of the 2 images that .*split\.txt names are not there: .*elsewhere\.jpg'):
        check_pairs(cfg, report, LOADERS)


def test_a_pipeline_that_loads_labels_needs_their_folder(cfg, root, report):
    del cfg.train_dataloader.dataset.data_prefix['seg_map_path']
    with pytest.raises(DataError, match=r'set train_dataloader\.dataset\.data_prefix\.seg_map_path'):
        check_pairs(cfg, report, LOADERS)

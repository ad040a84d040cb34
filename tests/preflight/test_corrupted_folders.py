"""Folders of label maps and of classes, changed in a random file: refused, named, or with labels and scores as before."""

import copy
import io
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmfreq.compat.safe_load import CheckpointError
from mmfreq.errors import UserError
from mmfreq.preflight import Report, check_data
from mmfreq.preflight.classification import check_images
from mmfreq.preflight.segmentation import check_pairs
from mmfreq.testing.toy_segmentation import toy_segmentation_config

EXAMPLES = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
LOADERS = ('train_dataloader', 'val_dataloader')
SIDE = 16


def encode(pixels, suffix='.png'):
    return cv2.imencode(suffix, pixels)[1].tobytes()


def tiff_of_floats(path):
    out = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE), 0.5, np.float32)).save(out, 'TIFF')
    path.write_bytes(out.getvalue())


def move(path, *parts):
    target = path.parent.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


CHANGES = {
    'deleted': Path.unlink,
    'empty': lambda path: path.write_bytes(b''),
    'truncated': lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    'without its last bytes': lambda path: path.write_bytes(path.read_bytes()[:-4]),
    'text': lambda path: path.write_text('a note'),
    'HTML': lambda path: path.write_text('<!DOCTYPE html><html></html>'),
    'another suffix': lambda path: path.rename(path.with_suffix('.JPEG')),
    'another name': lambda path: path.rename(path.with_name(f'copy of {path.name}')),
    'in a sub-folder': lambda path: move(path, 'sub', path.name),
    'in the folder above': lambda path: move(path, '..', path.name),
    'a folder': lambda path: (path.unlink(), path.mkdir()),
    'a broken link': lambda path: (path.unlink(), path.symlink_to('nowhere')),
    'of another size': lambda path: path.write_bytes(encode(np.zeros((9, 7), np.uint8), path.suffix)),
    'one row': lambda path: path.write_bytes(encode(np.zeros((1, SIDE), np.uint8), path.suffix)),
    'colors': lambda path: path.write_bytes(encode(np.full((SIDE, SIDE, 3), (9, 99, 199), np.uint8), path.suffix)),
    'transparent': lambda path: path.write_bytes(encode(np.full((SIDE, SIDE, 4), 200, np.uint8))),
    '16 bits': lambda path: path.write_bytes(encode(np.full((SIDE, SIDE), 300, np.uint16))),
    'real numbers': tiff_of_floats,
    'all 255': lambda path: path.write_bytes(encode(np.full((SIDE, SIDE), 255, np.uint8), path.suffix)),
    'a row of 7': lambda path: path.write_bytes(encode(np.uint8([[7] * SIDE] + [[1] * SIDE] * (SIDE - 1)))),
    'a second file beside it': lambda path: shutil.copy(path, path.with_name(f'second{path.suffix}')),
    'a file of the system beside it': lambda path: path.with_name('.DS_Store').write_bytes(b'\0\0'),
}  # fmt: skip


def outcome(check, cfg):
    """The error, or all messages, of a check; raises whatever is no error for a user."""
    report = Report()
    try:
        check_data(cfg, LOADERS)
        check(cfg, report, LOADERS)
    except (UserError, CheckpointError) as error:
        return str(error), True
    return '\n'.join((*report.warnings, *report.notes)), False


def fresh(valid, at):
    """A copy of a valid folder, always at the same path."""
    shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(valid, at, symlinks=True)
    return at


@pytest.fixture
def pairs(tmp_path):
    """Four pairs of two classes in each split."""
    root = tmp_path / 'valid'
    for split in ('training', 'validation'):
        for kind, suffix in (('images', '.jpg'), ('annotations', '.png')):
            (root / kind / split).mkdir(parents=True)
            for index in range(4):
                pixels = np.random.default_rng(index).integers(0, 2, (SIDE, SIDE), np.uint8)
                pixels = pixels if kind == 'annotations' else 100 * pixels[..., None].repeat(3, -1)
                (root / kind / split / f'{split}{index}{suffix}').write_bytes(encode(pixels, suffix))
    return root


def labels_that_mmseg_loads(cfg):
    from mmseg.registry import DATASETS

    init_default_scope('mmseg')
    dataset = DATASETS.build(copy.deepcopy(cfg.val_dataloader.dataset))
    return {Path(sample['img_path']).name: sample['gt_seg_map'] for sample in (dataset[index] for index in range(len(dataset)))}


def segmentation_config(root):
    cfg = Config(toy_segmentation_config(root))
    cfg.model.decode_head.num_classes = 2
    leaf = {'type': 'BaseSegDataset', 'metainfo': {'classes': ('ground', 'tree')}, 'reduce_zero_label': False}
    for loader in LOADERS:
        cfg[loader].dataset.update(leaf)
        cfg[loader].dataset.pipeline = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations'}]
    return cfg


@EXAMPLES
@given(change=st.sampled_from(sorted(CHANGES)), split=st.sampled_from(('training', 'validation')),
       kind=st.sampled_from(('images', 'annotations')), index=st.integers(0, 3))  # fmt: skip
def test_a_folder_of_label_maps(pairs, tmp_path, change, split, kind, index):
    root = fresh(pairs, tmp_path / 'data')
    path = sorted((root / kind / split).iterdir())[index]
    CHANGES[change](path)
    text, refused = outcome(check_pairs, segmentation_config(root))
    named = path.stem in text or 'second' in text or split in text
    if refused or named:
        assert named, (change, text)
        return
    before = labels_that_mmseg_loads(segmentation_config(pairs))
    after = labels_that_mmseg_loads(segmentation_config(root))
    assert before.keys() == after.keys()
    ignored = change == 'all 255'  # such pixels are left out of the score
    assert all((before[name] == after[name]).all() or ignored for name in before), change


@pytest.fixture
def classes(tmp_path):
    """Three images in each of three class folders, in each split."""
    root = tmp_path / 'valid'
    for split in ('train', 'val'):
        for folder in 'abc':
            (root / split / folder).mkdir(parents=True)
            for index in range(3):
                (root / split / folder / f'{split}{folder}{index}.jpg').write_bytes(encode(np.full((8, 8, 3), 9, np.uint8), '.jpg'))
    return root


def labels_that_mmpretrain_loads(root, split):
    from mmpretrain.registry import DATASETS

    init_default_scope('mmpretrain')
    dataset = DATASETS.build(copy.deepcopy(classification_config(root)[f'{split}_dataloader'].dataset))
    samples = [dataset[index] for index in range(len(dataset))]
    return {Path(sample['img_path']).name: dataset.CLASSES[sample['gt_label']] for sample in samples}, dataset.CLASSES


def classification_config(root):
    head = {'type': 'LinearClsHead', 'num_classes': 3}
    leaf = {'type': 'CustomDataset', 'data_root': str(root), 'pipeline': [{'type': 'LoadImageFromFile'}]}
    loaders = {f'{split}_dataloader': {'dataset': {**leaf, 'data_prefix': split}} for split in ('train', 'val')}
    model = {'type': 'ImageClassifier', 'backbone': {'type': 'X'}, 'head': head}
    return Config({'default_scope': 'mmpretrain', 'model': model, 'val_evaluator': {'type': 'Accuracy'}, **loaders})


FOLDER_CHANGES = {
    'class folder deleted': lambda path: shutil.rmtree(path.parent),
    'class folder empty': lambda path: [each.unlink() for each in path.parent.iterdir()],
    'class folder renamed': lambda path: path.parent.rename(path.parent.with_name('z')),
    'class folder in upper case': lambda path: path.parent.rename(path.parent.with_name(path.parent.name.upper())),
    'class folder within another': lambda path: shutil.move(path.parent, path.parents[1] / 'ab'.replace(path.parent.name, '')[0]),
    'class folder is a file': lambda path: (shutil.rmtree(path.parent), path.parent.write_text('')),
    'another class folder': lambda path: shutil.copytree(path.parent, path.parent.with_name('aa')),
    'a hidden folder': lambda path: path.parent.with_name('.ipynb_checkpoints').mkdir(),
}  # fmt: skip
REMOVED = ('deleted', 'another name', 'another suffix')  # nothing is wrong with the rest


@EXAMPLES
@given(change=st.sampled_from(sorted({**CHANGES, **FOLDER_CHANGES})), split=st.sampled_from(('train', 'val')),
       folder=st.sampled_from('abc'), index=st.integers(0, 2))  # fmt: skip
def test_class_folders(classes, tmp_path, change, split, folder, index):
    root = fresh(classes, tmp_path / 'data')
    path = sorted((root / split / folder).iterdir())[index]
    {**CHANGES, **FOLDER_CHANGES}[change](path)
    text, refused = outcome(check_images, classification_config(root))
    named = path.stem in text or f'{split}{os.sep}' in text or f'{split}_dataloader' in text or f'/{split}' in text
    if refused or named:
        assert named, (change, text)
        return
    before, names = labels_that_mmpretrain_loads(classes, split)
    after, names_after = labels_that_mmpretrain_loads(root, split)
    assert names == names_after
    gone = {path.name} if change in REMOVED else set()
    assert before.keys() - after.keys() <= gone, change
    assert all(label == before.get(name, label) for name, label in after.items()), change

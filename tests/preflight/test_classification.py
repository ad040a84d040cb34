"""Classification datasets: class folders, lists, labels, images, and the numbers of classes in a config."""

import json
import re
import time

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmfreq.errors import DataError
from mmfreq.preflight.class_folders import read_folder
from mmfreq.preflight.classification import check_images

LOADERS = ('train_dataloader', 'val_dataloader')
KEY = 'train_dataloader.dataset'
VAL = 'val_dataloader.dataset'
SPLITS = {'train': 'train_dataloader', 'val': 'val_dataloader'}


@pytest.fixture
def folders(tmp_path):
    """`folders(train, val)`: writes {folder: number of images} of both splits, and returns the config that reads them."""

    def make(train=None, val=None, classes=3, **dataset):
        for split, content in (('train', train or dict.fromkeys('abc', 2)), ('val', val or dict.fromkeys('abc', 1))):
            for folder, count in content.items():
                (tmp_path / split / folder).mkdir(parents=True)
                for index in range(count):
                    write(tmp_path / split / folder / f'{folder.replace("/", "_")}{index}.jpg')
        return config(tmp_path, classes, **dataset)

    return make


def write(path, shape=(8, 8, 3)):
    path.write_bytes(cv2.imencode(path.suffix, np.zeros(shape, np.uint8))[1].tobytes())


def config(root, classes=3, metric=None, **dataset):
    loaders = {}
    for split, loader in SPLITS.items():
        leaf = {'type': 'CustomDataset', 'data_root': str(root), 'data_prefix': split, 'pipeline': [{'type': 'LoadImageFromFile'}]}
        loaders[loader] = {'dataset': leaf | {name: value.replace('SPLIT', split) if isinstance(value, str) else value
                                             for name, value in dataset.items()}}  # fmt: skip
    model = {'type': 'ImageClassifier', 'backbone': {'type': 'X'}, 'head': {'type': 'LinearClsHead', 'num_classes': classes}}
    return Config({'default_scope': 'mmpretrain', 'model': model, 'val_evaluator': metric or {'type': 'Accuracy'}, **loaders})


@pytest.fixture
def lists(tmp_path):
    """`lists(change)`: six images of three classes in folders, and a list of both splits after `change(lines)`."""

    def make(change=lambda lines: lines, val=None, classes=3, encoding='utf-8', **dataset):
        for split in SPLITS:
            lines = []
            for label, folder in enumerate('abc'):
                (tmp_path / split / folder).mkdir(parents=True, exist_ok=True)
                for index in range(2):
                    write(tmp_path / split / folder / f'{index}.jpg')
                    lines.append(f'{folder}/{index}.jpg {label}')
            lines = (change if split == 'train' else val or (lambda lines: lines))(lines)
            (tmp_path / f'{split}.txt').write_bytes(''.join(f'{line}\n' for line in lines).encode(encoding))
        return config(tmp_path, classes, ann_file='SPLIT.txt', **dataset)

    return make


def mmpretrain_labels(cfg, split='train'):
    """File name -> label, as mmpretrain reads the dataset."""
    from mmpretrain.datasets import CustomDataset

    options = cfg[SPLITS[split]].dataset.to_dict()
    dataset = CustomDataset(**{name: value for name, value in options.items() if name not in ('type', 'pipeline')})
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return {info['img_path'].rpartition(f'{split}/')[2]: info['gt_label'] for info in infos}


FOLDERS = {  # folders of training, of validation, other options -> the error
    'missing in validation': (
        None,
        {'a': 1, 'c': 1},
        {},
        rf"{VAL}: 1 class folders.*'c': 1, and 2 in training.*only {KEY} has b.*empty",
    ),
    'missing in training': ({'b': 2, 'c': 1}, None, {}, rf"'b': 1, and 0 in training \(only {VAL} has a\)"),
    'hidden in training': ({'.ipynb_checkpoints': 1, 'a': 1, 'b': 1}, {'a': 1, 'b': 1}, {}, r"'a': 0, and 1 in training"),
    'another name': ({'cat': 1, 'dog': 1}, {'Dog': 1, 'cat': 1}, {}, r"'cat': 1, and 0 in training.*only .*Dog; only .*dog"),
    'no folder': ({'.': 2}, None, {}, r'one folder of images for each class in .*train, found 2 images and no folder.*ann_file'),
    'no image': ({'a': 0, 'b': 0}, None, {}, r'the 2 folders in .*train have no image'),
    'splits as classes': (
        {'a/x': 2},
        {'a/x': 2},
        {'data_prefix': '', 'classes': 3},
        r"folders in .* are train, val, .*data_prefix='train'",
    ),
    'one folder too high': (
        {'all/a': 1, 'all/b': 1},
        None,
        {},
        r"only the folder 'all'.*2 folders in it.*data_prefix to .*train/all",
    ),
    'more than the head': (
        dict.fromkeys('abcd', 1),
        dict.fromkeys('abcd', 1),
        {},
        r'has 4 classes, but the head has num_classes=3',
    ),
    'fewer than the names': (
        None,
        None,
        {'metainfo': {'classes': list('abcd')}, 'classes': 4},
        r'4 class names, but .* 3 folders.*Without a folder: d',
    ),
    'more than the names': (None, None, {'metainfo': {'classes': list('ab')}}, r'2 class names, but .*3 folders.*Not a class: c'),
    'ImageNet': (None, None, {'type': 'ImageNet', 'classes': 1000}, r'ImageNet has 1000 class names, but .* has 3 folders'),
    'no split': (
        None,
        None,
        {'type': 'ImageNet', 'split': 'test', 'data_prefix': 'gone'},
        r'the images at .*gone, which does not exist',
    ),
    'names by the argument `classes`': (
        None,
        None,
        {'type': 'CustomDataset', 'names': list('ab')},
        r'2 class names, but .*3 folders',
    ),
}


@pytest.mark.parametrize('case', FOLDERS)
def test_class_folders_that_are_refused(folders, report, case):
    train, val, options, pattern = FOLDERS[case]
    options = dict(options)
    names = options.pop('names', None)
    cfg = folders(train, val, **options)
    if names:
        cfg.train_dataloader.dataset.classes = names
    with pytest.raises(DataError, match=f'^{KEY}: |^{KEY} |^{VAL}') as error:
        check_images(cfg, report, LOADERS)
    assert re.search(pattern, str(error.value)), error.value


@pytest.mark.parametrize('case', ['missing in validation', 'missing in training', 'hidden in training', 'another name'])
def test_mmpretrain_shifts_the_labels_of_such_folders(folders, case):
    train, val, _, _ = FOLDERS[case]
    cfg = folders(train, val)
    labels = [mmpretrain_labels(cfg, split) for split in SPLITS]
    by_class = [{path.split('/')[0]: label for path, label in found.items()} for found in labels]
    assert any(by_class[0][name] != by_class[1][name] for name in set(by_class[0]) & set(by_class[1]))


def add(name, shape=(8, 8, 3)):
    def change(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if shape is None:
            (root / name).write_bytes(b'GIF89a')
        else:
            write(root / name, shape)

    return change


WARNED = {  # folders, change of the folder of training, options -> the message
    'empty': ({'a': 1, 'b': 0, 'c': 1}, None, {}, r'1 folders have no image but count as a class: b'),
    'loose images': (None, add('loose.png'), {}, r'1 images in .*train are in no class folder and are not read: loose\.png'),
    'other suffixes': (None, add('a/new.gif', None), {}, r'suffix \(1 \.gif\).*extensions='),
    'hidden in both': (
        {'.git': 1, 'a': 1, 'b': 1},
        None,
        {'val': {'.git': 1, 'a': 1, 'b': 1}},
        r'hidden folder \.git counts as a class',
    ),
    'names in another order': (
        None,
        None,
        {'metainfo': {'classes': list('acb')}},
        r"label 1 is the folder 'b' and would be shown as 'c'",
    ),
    'a class without validation': (None, None, {'val': {'a': 1, 'b': 1}}, rf'{VAL}: the class folders.*only {KEY} has c.*never'),
    'a class without training': ({'a': 1, 'b': 1}, None, {}, rf'{VAL}: the class folders.*only {VAL} has c'),
    'validation of one class': (None, None, {'val': {'a': 2, 'b': 0, 'c': 0}}, rf'{VAL}: all 2 images have the label 0'),
    'training of one class': ({'a': 2}, None, {'val': {'a': 2}}, r'train_dataloader\.dataset: all 2 images have the label 0'),
}


@pytest.mark.parametrize('case', WARNED)
def test_class_folders_that_are_probably_a_mistake(folders, report, tmp_path, case):
    train, change, options, pattern = WARNED[case]
    cfg = folders(train, **options)
    if change:
        change(tmp_path / 'train')
    check_images(cfg, report, LOADERS)
    found = [warning for warning in report.warnings if re.search(pattern, warning)]
    assert found and len(found) == len({warning.split(':')[0] for warning in found}), report.warnings


def test_valid_folders_are_counted_as_mmpretrain_counts_them(folders, report, tmp_path):
    cfg = folders({'a/x': 1, 'a/y/z': 1, 'b': 2, 'c': 3})
    for name in ('b/UPPER.JPG', 'b/notes.txt', 'b/.hidden.jpg', 'notes.csv'):
        (tmp_path / 'train' / name).write_bytes(cv2.imencode('.jpg', np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    check_images(cfg, report, LOADERS)
    assert not report.warnings
    assert len(report.notes) == 1 and '1 class folders have folders in them' in report.notes[0]
    labels = mmpretrain_labels(cfg)
    assert report.data[KEY].total == len(labels) == 8 and report.data[KEY].classes == 3
    paths = [path for folder in 'abc' for path in read_folder(tmp_path / 'train', folder, ('.jpg',))[1]]
    assert paths == [*labels]


def line(index, text):
    return lambda lines: [*lines[:index], text, *lines[index + 1 :]]


LISTS = {  # change of the list of training, options -> the error
    'no label': (line(2, 'b/0.jpg'), {}, r"one space and an integer label.*line 3 is 'b/0\.jpg'"),
    'a text label': (line(1, 'a/1.jpg cat'), {}, r"line 2 is 'a/1\.jpg cat'.*numbers from 0"),
    'a real label': (line(1, 'a/1.jpg 1.0'), {}, r"line 2 is 'a/1\.jpg 1\.0'"),
    'a comma': (line(0, 'a/0.jpg,0'), {}, r"line 1 is 'a/0\.jpg,0'"),
    'a tab': (line(0, 'a/0.jpg\t0'), {}, r"line 1 is 'a/0\.jpg\\t0'"),
    'an empty line': (line(3, ''), {}, r'line 4 is empty'),
    'empty': (lambda lines: [], {}, r'train\.txt is empty'),
    'not text': (lambda lines: [*lines, 'ä.jpg 0'], {'encoding': 'latin-1'}, r'expected text in UTF-8'),
    'a negative label': (line(0, 'a/0.jpg -1'), {}, r'labels of 0\.\.2 .*1 images have -1'),
    'labels from 1': (
        lambda lines: [f'{x[:-1]}{int(x[-1]) + 1}' for x in lines],
        {},
        r'2 images have 3\. The labels start at 1: subtract',
    ),
    'a label beyond the head': (line(5, 'c/1.jpg 7'), {}, r'labels of 0\.\.2 .*1 images have 7.*IndexError'),
    'a missing image': (line(0, 'a/9.jpg 0'), {}, r'1 of the 6 images in .*train\.txt do not exist: a/9\.jpg.*train/a/9\.jpg'),
    'a missing folder': (line(0, 'z/9.jpg 0'), {}, r'do not exist: z/9\.jpg'),
    'backslashes': (lambda lines: [x.replace('/', '\\') for x in lines], {}, r'6 of the 6 .*written on Windows'),
    'a byte order mark': (line(0, '\ufeffa/0.jpg 0'), {}, r'byte order mark'),
    'no suffix': (lambda lines: [x.replace('.jpg', '') for x in lines], {}, r"without the suffix '\.jpg'"),
    'the folder twice': (lambda lines: [f'train/{x}' for x in lines], {}, r"folder 'train' is in data_prefix and in the list"),
    'another order of the classes': (
        None,
        {'val': lambda lines: [f'{x[:-1]}{2 - int(x[-1])}' for x in lines]},
        rf"{VAL}: 2 class folders have another label than in {KEY}, such as 'a': 2, and 0",
    ),
    'no list': (
        None,
        {'data_root': '', 'data_prefix': '', 'gone': True},
        r'the list of images at .*gone\.txt, which does not exist',
    ),
}


@pytest.mark.parametrize('case', LISTS)
def test_lists_that_are_refused(lists, report, case):
    change, options, pattern = LISTS[case]
    options = dict(options)
    gone = options.pop('gone', False)
    cfg = lists(change or (lambda lines: lines), **options)
    if gone:
        cfg.train_dataloader.dataset.ann_file = 'gone.txt'
    with pytest.raises(DataError, match=pattern):
        check_images(cfg, report, LOADERS)


@pytest.mark.parametrize('case', ['no label', 'a text label', 'a real label', 'a comma', 'a tab', 'an empty line', 'not text'])
def test_mmpretrain_cannot_read_such_lists(lists, case):
    change, options, _ = LISTS[case]
    with pytest.raises((ValueError, UnicodeDecodeError)):
        mmpretrain_labels(lists(change, **options))


LIST_MESSAGES = {
    'a repeated line': (lambda lines: [*lines, lines[0]], {}, 'notes', r'1 lines of .*train\.txt repeat an image'),
    'two labels': (lambda lines: [*lines, 'a/0.jpg 2'], {}, 'warnings', r'1 images have several labels in .*: a/0\.jpg'),
    'no label 0': (
        lambda lines: [x for x in lines if x[-1] != '0'],
        {'classes': 4},
        'warnings',
        r'no image has the label 0',
    ),
    'one label': (lambda lines: [f'{x[:-1]}1' for x in lines], {}, 'warnings', r'all 6 images have the label 1'),
    'a class without images': (
        lambda lines: [x.replace(' 2', ' 0') for x in lines],
        {'metainfo': {'classes': ['x', 'y', 'z']}},
        'notes',
        r"1 of the 3 classes have no image: 2 'z'",
    ),
}


@pytest.mark.parametrize('case', LIST_MESSAGES)
def test_lists_that_are_probably_a_mistake(lists, report, case):
    change, options, level, pattern = LIST_MESSAGES[case]
    check_images(lists(change, **options), report, LOADERS)
    found = [message for message in getattr(report, level) if re.search(pattern, message)]
    assert len(found) == 1, (report.warnings, report.notes)


def test_valid_lists_are_read_as_mmpretrain_reads_them(lists, report, tmp_path):
    cfg = lists(lambda lines: [*lines, 'a name.jpg 1\r'])
    write(tmp_path / 'train' / 'a name.jpg')
    check_images(cfg, report, LOADERS)
    assert not report.warnings and not report.notes and report.data[KEY].total == 7
    assert mmpretrain_labels(cfg)['a name.jpg'] == 1


def test_folders_and_lists_are_compared(folders, report, tmp_path):
    cfg = folders()
    (tmp_path / 'val.txt').write_text('a/a0.jpg 1\nb/b0.jpg 0\n')
    cfg.val_dataloader.dataset.ann_file = 'val.txt'
    with pytest.raises(DataError, match=r"2 class folders have another label.*'a': 1, and 0 in training"):
        check_images(cfg, report, LOADERS)


def set_image(name, data):
    return lambda root: (root / name).write_bytes(data)


GRAY16 = cv2.imencode('.png', np.full((8, 8, 3), 3000, np.uint16))[1].tobytes()
IMAGES = {
    'truncated': (lambda root: set_image('a/a0.jpg', (root / 'a/a0.jpg').read_bytes()[:200])(root), {}, r'a0\.jpg'),
    'text': (set_image('a/a0.jpg', b'<html>'), {}, r'a0\.jpg .*HTML'),
    'empty file': (set_image('b/b1.jpg', b''), {}, r'b1\.jpg.*empty file'),
    '16 bits': (set_image('c/c0.jpg', GRAY16), {'color_type': 'unchanged'}, r'c0\.jpg is read as uint16'),
    'gray': (add('a/a0.jpg', (8, 8)), {'color_type': 'unchanged'}, r'a0\.jpg has 1 channels, .*in_channels=3'),
}


@pytest.mark.parametrize('case', IMAGES)
def test_images_that_cannot_be_read(folders, report, tmp_path, case):
    change, load, pattern = IMAGES[case]
    cfg = folders(pipeline=[{'type': 'LoadImageFromFile', **load}, {'type': 'PackInputs'}])
    cfg.model.backbone.in_channels = 3
    change(tmp_path / 'train')
    with pytest.raises(DataError, match=f'(?s)^{KEY}: .*{pattern}'):
        check_images(cfg, report, LOADERS)


JSON = {
    'a label beyond the head': ({'gt_label': 3}, r'labels of 0\.\.2 .*1 images have 3'),
    'a text label': ({'gt_label': 'cat'}, r"expected integers as `gt_label`.*'cat'"),
    'a missing image': ({'img_path': 'a/9.jpg'}, r'1 of the 3 images .*do not exist'),
    'several labels': ({'gt_label': [0, 1]}, r'Accuracy is for one label per image'),
}


@pytest.mark.parametrize('case', JSON)
def test_json_files(folders, report, tmp_path, case):
    change, pattern = JSON[case]
    cfg = folders(val={'a': 2, 'b': 2, 'c': 2})
    rows = [{'img_path': f'{folder}/{folder}0.jpg', 'gt_label': label} for label, folder in enumerate('abc')]
    for split, table in (('train', [rows[0] | change, *rows[1:]]), ('val', rows)):
        (tmp_path / f'{split}.json').write_text(json.dumps({'metainfo': {'classes': list('xyz')}, 'data_list': table}))
        cfg[SPLITS[split]].dataset.update({'type': 'BaseDataset', 'ann_file': f'{split}.json'})
    with pytest.raises(DataError, match=pattern):
        check_images(cfg, report, LOADERS)
    (tmp_path / 'train.json').write_text((tmp_path / 'val.json').read_text())
    check_images(cfg, report, LOADERS)
    assert report.data[KEY].total == 3 and not report.warnings


CONFIGS = {
    'top 5 of 3 classes': (
        lambda cfg: cfg.val_evaluator.update(topk=(1, 5)),
        r'Accuracy has topk=.*num_classes=3.*after the first epoch',
    ),
    'top 5 while training': (lambda cfg: cfg.model.head.update(topk=(1, 5), cal_acc=True), r'model\.head has topk=.*cal_acc=True'),
    'best by a score that is not computed': (
        lambda cfg: cfg.update(default_hooks={'checkpoint': {'save_best': 'accuracy/top5'}}),
        r"save_best='accuracy/top5'.*accuracy/top1",
    ),
    'classes of the preprocessor': (
        lambda cfg: cfg.update(
            data_preprocessor={'num_classes': 1000, 'batch_augments': {'augments': {'type': 'Mixup', 'alpha': 1}}}
        ),
        r'data_preprocessor\.num_classes=1000, but the head has num_classes=3',
    ),
    'classes of the loss': (
        lambda cfg: cfg.model.head.update(loss={'type': 'LabelSmoothLoss', 'num_classes': 1000}),
        r'model\.head\.loss\.num_classes=1000.*LabelSmoothLoss',
    ),
}


@pytest.mark.parametrize('case', CONFIGS)
def test_numbers_of_classes_in_the_config(folders, report, case):
    change, pattern = CONFIGS[case]
    cfg = folders()
    check_images(cfg, report, LOADERS)
    change(cfg)
    with pytest.raises(DataError, match=pattern):
        check_images(cfg, report, LOADERS)


def test_what_mmpretrain_does_with_such_numbers():
    """The facts behind the checks: each fails after an epoch, or in the first iteration."""
    from mmpretrain.evaluation import Accuracy
    from mmpretrain.models import ClsDataPreprocessor, LabelSmoothLoss
    from mmpretrain.structures import DataSample

    scores, label = torch.rand(1, 3), torch.tensor([1])
    with pytest.raises(ValueError, match='Top-5 accuracy is unavailable'):
        Accuracy.calculate(scores, label, topk=(1, 5))
    assert Accuracy.calculate(scores, torch.tensor([7]))[0][0] == 0  # a label beyond the classes counts as an error
    with pytest.raises(IndexError):
        torch.nn.functional.cross_entropy(scores, torch.tensor([3]))
    loss = LabelSmoothLoss(0.1, num_classes=1000)
    with pytest.raises(AssertionError, match='num_classes'):
        loss(scores, label)
    preprocessor = ClsDataPreprocessor(num_classes=1000, batch_augments={'augments': {'type': 'Mixup', 'alpha': 1.0}})
    batch = preprocessor({'inputs': [torch.zeros(3, 8, 8)], 'data_samples': [DataSample().set_gt_label(label)]}, training=True)
    assert batch['data_samples'][0].gt_score.shape == (1000,)


def test_other_datasets_are_left_to_the_runner(folders, report):
    check_images(folders(type='CIFAR10'), report, LOADERS)
    assert not report.data


@pytest.mark.slow
def test_folders_of_many_images_take_seconds(folders, report, tmp_path):
    """200 classes with 500 links each: 100000 images."""
    cfg = folders(
        dict.fromkeys((f'n{index:05}' for index in range(200)), 1), dict.fromkeys((f'n{index:05}' for index in range(200)), 1), 200
    )
    for folder in (tmp_path / 'train').iterdir():
        for index in range(1, 500):
            (folder / f'{index}.jpg').hardlink_to(folder / f'{folder.name}0.jpg')
    start = time.process_time()
    check_images(cfg, report, LOADERS)
    took = time.process_time() - start
    print(f'100000 images: {took:.2f} s')
    assert report.data[KEY].total == 100000 and took < 5

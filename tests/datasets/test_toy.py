"""Toy datasets: reproducible, in the right layout, learnable, and never written over other files."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmfreq.datasets.toy import MARKER, TOY_CLASSES, draw_scene, write_toy_ade20k, write_toy_coco

COUNTS = {'train': 30, 'val': 15}


@pytest.fixture(scope='module')
def ade(tmp_path_factory):
    root = tmp_path_factory.mktemp('toy') / 'ade'
    return write_toy_ade20k(root, **COUNTS)


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp('toy') / 'coco'
    return write_toy_coco(root, **COUNTS, size=(96, 144))


def _files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def _pairs(root, split):
    images = sorted((root / 'images' / split).glob('*.jpg'))
    labels = [root / 'annotations' / split / f'{path.stem}.png' for path in images]
    return [(cv2.imread(str(a)), cv2.imread(str(b), cv2.IMREAD_UNCHANGED)) for a, b in zip(images, labels)]


@pytest.mark.parametrize('write', [write_toy_ade20k, write_toy_coco])
def test_same_seed_gives_the_same_bytes_and_another_seed_other_images(write, tmp_path):
    for name, seed in (('a', 3), ('b', 3), ('c', 4)):
        write(tmp_path / name, train=2, val=1, size=(48, 64), seed=seed)
    first, again, other = (_files(tmp_path / name) for name in 'abc')
    assert first == again
    images = [name for name in first if name.endswith('.jpg')]
    assert len(images) == 3
    assert all(first[name] != other[name] for name in images)
    assert len({first[name] for name in images}) == 3  # training and validation differ too


def test_a_sample_does_not_depend_on_how_many_are_written(tmp_path):
    write_toy_ade20k(tmp_path / 'few', train=1, val=2, size=(48, 64))
    write_toy_ade20k(tmp_path / 'many', train=4, val=3, size=(48, 64))
    few, many = _files(tmp_path / 'few'), _files(tmp_path / 'many')
    shared = set(few) - {MARKER}
    assert len(shared) == 6 and all(few[name] == many[name] for name in shared)


def test_ade_layout_has_uint8_ids_and_zero_for_not_labeled(ade):
    with_border = 0
    for split, folder in (('train', 'training'), ('val', 'validation')):
        pairs = _pairs(ade.root, folder)
        assert len(pairs) == COUNTS[split]
        for image, labels in pairs:
            assert image.shape == (128, 128, 3) and labels.shape == (128, 128) and labels.dtype == np.uint8
            assert labels.max() <= len(TOY_CLASSES)
            with_border += bool((labels == 0).any())
            assert (labels == 0).mean() < 0.25
    assert 0 < with_border < sum(COUNTS.values())


@pytest.mark.parametrize('folder', ['training', 'validation'])
def test_no_class_is_dominant_or_rare(ade, folder):
    counts = sum(np.bincount(labels.ravel(), minlength=7) for _, labels in _pairs(ade.root, folder))[1:]
    shares = counts / counts.sum()
    assert len(shares) == len(TOY_CLASSES) == 6
    assert shares.max() <= 0.60 and shares.min() >= 0.04
    assert shares.max() / len(shares) <= 0.12  # mIoU of the best constant predictor


def test_reported_frequencies_are_those_of_the_files(ade):
    counts = sum(np.bincount(labels.ravel(), minlength=7) for f in ('training', 'validation') for _, labels in _pairs(ade.root, f))
    shares = counts[1:] / counts[1:].sum()
    assert list(ade.frequencies) == [row.name for row in TOY_CLASSES]
    np.testing.assert_allclose(list(ade.frequencies.values()), shares, atol=1e-4)


def test_color_helps_but_does_not_suffice(ade):
    def colors(split):
        pairs = _pairs(ade.root, split)
        images, labels = np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])
        smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 1.5) for image in images]) // 32
        return (smooth.astype(int) @ [64, 8, 1]).ravel(), labels.ravel()

    bins, labels = colors('training')
    table = np.zeros((512, 7), int)
    np.add.at(table, (bins, labels), 1)
    bins, labels = colors('validation')
    guess = 1 + table[:, 1:].argmax(axis=1)[bins]
    kept = labels > 0
    ious = [(kept & (guess == k) & (labels == k)).sum() / (kept & ((guess == k) | (labels == k))).sum() for k in range(1, 7)]
    assert 0.15 < np.mean(ious) < 0.6


def test_coco_instances_are_consistent_and_cover_each_pixel_once(coco):
    from pycocotools import mask as coco_mask

    for split, count in COUNTS.items():
        table = json.loads((coco.root / f'annotations/instances_{split}2017.json').read_text())
        assert [row['name'] for row in table['categories']] == [row.name for row in TOY_CLASSES[1:]]
        assert len(table['images']) == count
        covered = {row['id']: np.zeros((96, 144), int) for row in table['images']}
        for row in table['images']:
            assert cv2.imread(str(coco.root / f'{split}2017' / row['file_name'])).shape == (row['height'], row['width'], 3)
        for row in table['annotations']:
            code = coco_mask.frPyObjects(row['segmentation'], *row['segmentation']['size'])
            mask = coco_mask.decode(code)
            assert row['area'] == mask.sum() > 0 and row['iscrowd'] == 0
            assert row['bbox'] == coco_mask.toBbox(code).tolist()
            covered[row['image_id']] += mask
        assert len({row['id'] for row in table['annotations']}) == len(table['annotations'])
        assert {row['category_id'] for row in table['annotations']} == {1, 2, 3, 4, 5}
        assert all(times.max() == 1 for times in covered.values())


def test_scene_labels_are_those_of_its_instances():
    for seed in range(5):
        scene = draw_scene(np.random.default_rng(seed), (64, 160))
        rebuilt = np.zeros((64, 160), np.uint8)
        for label, mask in scene.instances:
            rebuilt[mask] = label
        assert len(scene.instances) >= 8  # at least five per square of the shorter side
        np.testing.assert_array_equal(rebuilt, scene.labels)


def test_same_parameters_again_do_nothing(tmp_path):
    options = {'train': 1, 'val': 1, 'size': (48, 48)}
    first = write_toy_ade20k(tmp_path / 'set', **options)
    image = tmp_path / 'set/images/training/train_00000.jpg'
    image.write_bytes(b'touched')
    again = write_toy_ade20k(tmp_path / 'set', **options)
    assert first.written and not again.written and again.frequencies == first.frequencies
    assert 'nothing to do' in str(again) and 'nothing to do' not in str(first)
    assert image.read_bytes() == b'touched'
    assert write_toy_ade20k(tmp_path / 'set', **options, overwrite=True).written and image.read_bytes() != b'touched'


def test_other_parameters_need_overwrite_and_foreign_files_stay(tmp_path):
    root = tmp_path / 'set'
    write_toy_ade20k(root, train=3, val=1, size=(48, 48))
    (root / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'other parameters.*overwrite'):
        write_toy_ade20k(root, train=2, val=1, size=(48, 48))
    with pytest.raises(FileExistsError, match='other parameters'):
        write_toy_coco(root, train=3, val=1, size=(48, 48))
    write_toy_ade20k(root, train=2, val=1, size=(48, 48), overwrite=True)
    assert len(list(root.rglob('*.jpg'))) == len(list(root.rglob('*.png'))) == 3
    assert (root / 'notes.txt').read_text() == 'mine'


@pytest.mark.parametrize('overwrite', [False, True])
def test_a_folder_with_other_files_is_never_changed(tmp_path, overwrite):
    (tmp_path / 'photo.jpg').write_bytes(b'foreign')
    with pytest.raises(FileExistsError, match=MARKER):
        write_toy_ade20k(tmp_path, train=1, val=1, overwrite=overwrite)
    assert _files(tmp_path) == {'photo.jpg': b'foreign'}


def test_an_interrupted_run_or_a_missing_file_is_written_again(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    options = {'train': 2, 'val': 1, 'size': (48, 48)}
    with pytest.raises(KeyboardInterrupt):
        write_toy_ade20k(tmp_path / 'set', **options, on_sample=interrupt)
    seen = []
    assert write_toy_ade20k(tmp_path / 'set', **options, on_sample=lambda: seen.append(1)).written
    assert len(seen) == 3
    (tmp_path / 'set/annotations/training/train_00001.png').unlink()
    assert write_toy_ade20k(tmp_path / 'set', **options).written
    assert not write_toy_ade20k(tmp_path / 'set', **options).written


def test_impossible_sizes_and_counts_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r'at least 32.*\(16, 64\)'):
        write_toy_ade20k(tmp_path / 'set', train=1, val=1, size=(16, 64))
    with pytest.raises(ValueError, match='val = 0'):
        write_toy_coco(tmp_path / 'set', train=1, val=0)
    assert not (tmp_path / 'set').exists()


def test_generator_loads_neither_torch_nor_openmmlab():
    code = 'import sys, mmfreq.datasets.toy; print(sorted({"torch", "mmengine", "mmcv", "mmseg", "mmdet"} & set(sys.modules)))'
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'

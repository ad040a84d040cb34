"""Guarded pipelines: in every dataset of a run, wrapped ones too; unchanged samples; errors that name the file; low cost."""

import copy
import json
import pickle
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.dataset import BaseDataset, Compose, ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS, init_default_scope
from torch.utils.data import ConcatDataset as TorchConcat
from torch.utils.data import Subset

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.datasets.toy import TOY_CLASSES, write_toy_coco
from mmfreq.errors import InputError, message_of
from mmfreq.preflight import samples
from mmfreq.preflight.samples import (
    GuardedPipeline,
    GuardedTransform,
    check_image,
    check_label_map,
    dataset_tree,
    guard_samples,
    guards_kept,
)
from tests.broken_images import encode, ids, pixels, truncated, turned


class Numbers(BaseDataset):
    """Three numbers and a pipeline."""

    def __init__(self, *transforms):
        self._metainfo, self._fully_initialized = {}, True
        self.pipeline = Compose([])
        self.pipeline.transforms = list(transforms)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.pipeline({'img_path': f'{index}.jpg', 'value': index})


class Fails:
    def __init__(self, error):
        self.error = error

    def __call__(self, data):
        raise self.error


def guarded(dataset, loop='_train_loop'):
    guard_samples(SimpleNamespace(**{loop: SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))}))
    return dataset


@pytest.mark.parametrize('loop', ['_train_loop', '_val_loop', '_test_loop'])
def test_wrapped_datasets_are_guarded(loop):
    leaves = [Numbers(dict) for _ in range(3)]
    dataset = TorchConcat([leaves[0], ConcatDataset(leaves[1:2]), TorchConcat([RepeatDataset(leaves[2], 2)])])
    guarded(dataset, loop)
    assert [each for each in dataset_tree(dataset) if isinstance(each, Numbers)] == leaves
    assert list(dataset_tree(Subset(leaves[0], [0])))[1:] == leaves[:1] and not list(dataset_tree(None))
    assert all(isinstance(leaf.pipeline, GuardedPipeline) for leaf in leaves)
    assert dataset[0] == {'img_path': '0.jpg', 'value': 0}


def test_unbuilt_loops_and_datasets_without_pipeline_are_skipped():
    guard_samples(SimpleNamespace(_train_loop={'type': 'X'}, _val_loop=None))
    guarded([1, 2, 3])


def test_mmdets_mixed_dataset_is_guarded():
    from mmdet.datasets import MultiImageMixDataset

    leaf = Numbers(dict)
    mixed = MultiImageMixDataset(leaf, [{'type': 'mmdet.PackDetInputs'}])
    transform = mixed.pipeline[0]
    for _ in range(2):  # the second time changes nothing
        guarded(mixed)
    assert isinstance(leaf.pipeline, GuardedPipeline)
    (step,) = mixed.pipeline
    assert isinstance(step, GuardedTransform) and step.transform is transform


class Mixes:
    def get_indexes(self, dataset):
        return [2, 1]

    def __call__(self, data):
        raise KeyError('img')


def test_error_of_a_mixing_transform_names_all_images():
    from mmdet.datasets import MultiImageMixDataset

    mixed = MultiImageMixDataset(Numbers(dict), [])
    mixed.pipeline, mixed.pipeline_types = [Mixes()], ['Mixes']
    pattern = r"Mixes failed on image 0\.jpg, mixed image 1 2\.jpg, mixed image 2 1\.jpg: KeyError: 'img' \(.*line \d+\)"
    with pytest.raises(InputError, match=pattern):
        guarded(mixed)[0]
    step = pickle.loads(pickle.dumps(copy.deepcopy(mixed.pipeline[0])))
    assert step.get_indexes(None) == [2, 1] and not hasattr(step, 'get_indices')


def test_replaced_pipelines_are_guarded_again():
    guarded_before, plain = guarded(Numbers(dict)), Numbers(dict)
    with guards_kept(TorchConcat([guarded_before, plain])):
        guarded_before.pipeline = Compose([])
    assert isinstance(guarded_before.pipeline, GuardedPipeline) and not isinstance(plain.pipeline, GuardedPipeline)


def test_guarding_twice_keeps_the_pipeline():
    dataset = Numbers(dict)
    transforms = dataset.pipeline.transforms
    pipeline = guarded(dataset).pipeline
    assert guarded(dataset).pipeline is pipeline and pipeline.transforms is transforms
    for twin in (copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline))):
        assert twin({'img_path': 'a'}) == {'img_path': 'a'}


@pytest.mark.parametrize('error', [ValueError('no\nway'), KeyError('x'), ZeroDivisionError(), cv2.error('bad')])
def test_error_names_transform_image_and_line(error):
    with pytest.raises(InputError, match=r'Fails .*1\.jpg.*test_sample_guard\.py, line \d+') as caught:
        guarded(Numbers(dict, Fails(error)))[1]
    assert type(error).__name__ in str(caught.value)
    assert caught.value.__cause__ is error and '\n' not in str(caught.value)


def test_keyboard_interrupt_passes_through():
    with pytest.raises(KeyboardInterrupt):
        guarded(Numbers(Fails(KeyboardInterrupt())))[0]


def test_randomly_skipped_samples_are_not_logged(monkeypatch):
    messages = []
    monkeypatch.setattr('mmfreq.preflight.samples.print_log', lambda *given, **options: messages.append(given))
    assert guarded(Numbers(lambda data: None))[0] is None and not messages


@pytest.mark.parametrize('text', ['a plain one', 'Caught InputError in DataLoader worker process 0.\nbut no more'])
def test_message_of_other_errors_is_unchanged(text):
    assert message_of(InputError(text)) == text


def test_message_of_a_worker_error():
    from torch._utils import ExceptionWrapper

    try:
        raise InputError('first\nsecond') from ValueError('why')
    except InputError:
        wrapped = ExceptionWrapper(where='in DataLoader worker process 0')
    with pytest.raises(InputError) as caught:
        wrapped.reraise()
    assert 'Original ' in str(caught.value) and message_of(caught.value) == 'first\nsecond'


@pytest.fixture
def coco(tmp_path):
    """A function: the guarded dataset after a change of the first image's bytes or of its entry in the annotation file."""
    init_default_scope('mmdet')
    write_toy_coco(tmp_path, train=2, val=1, size=(48, 64))
    path = tmp_path / 'annotations/instances_train2017.json'

    def load(data=None, color_type='color', **entry):
        table = json.loads(path.read_text())
        table['images'][0].update(entry)
        path.write_text(json.dumps(table))
        if data is not None:
            (tmp_path / 'train2017' / table['images'][0]['file_name']).write_bytes(data)
        steps = [{'type': 'LoadImageFromFile', 'color_type': color_type}]
        steps += [{'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}, {'type': 'PackDetInputs'}]
        names = tuple(row['name'] for row in table['categories'])
        return guarded(DATASETS.build({'type': 'CocoDataset', 'data_root': str(tmp_path), 'pipeline': steps,
                                       'ann_file': str(path), 'data_prefix': {'img': 'train2017'},
                                       'metainfo': {'classes': names}}))  # fmt: skip

    return load


def test_toy_detection_dataset_passes(coco):
    assert len(TOY_CLASSES) > 2
    assert coco()[0]['inputs'].shape == (3, 48, 64)


DETECTION = {
    'rotated by EXIF': ({'data': turned(6)}, 'EXIF orientation .*color_ignore_orientation'),
    'another size': ({'data': encode(pixels((24, 32)), '.jpg')}, r'\(24, 32\).*\(48, 64\)'),
    'annotations of another size': ({'height': 64, 'width': 48}, r'\(64, 48\)'),
    'truncated': ({'data': truncated(encode(pixels(), '.jpg'))}, 'JPEG image, damaged|truncated'),
    'empty': ({'data': b''}, 'an empty file'),
    'not there': ({'file_name': 'nowhere.jpg'}, r'nowhere\.jpg.*missing'),
    'a folder': ({'file_name': '.'}, 'folder'),
}


@pytest.mark.parametrize('case', DETECTION)
def test_broken_images_of_a_detection_dataset_are_named(coco, case):
    change, pattern = DETECTION[case]
    with pytest.raises(InputError, match=pattern) as caught:
        coco(**change)[0]
    assert 'train2017/' in str(caught.value)


def test_fix_for_a_rotated_image_with_boxes_works(coco):
    assert coco(turned(6), color_type='color_ignore_orientation')[0]['inputs'].shape == (3, 48, 64)


def least_seconds(call, repeats=30):
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return min(times)


@pytest.mark.parametrize('with_exif', [False, True])
def test_checks_take_a_tenth_of_the_loading_time(tmp_path, with_exif, monkeypatch):
    """For a pair of the size of ADE20K's; the bound is loose, because other processes may run."""
    init_default_scope('mmseg')
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets.transforms import LoadAnnotations

    size = (512, 683)
    image, labels = tmp_path / 'a.jpg', tmp_path / 'a.png'
    image.write_bytes(turned(1, size) if with_exif else encode(pixels(size), '.jpg'))
    labels.write_bytes(encode(ids(size)))
    load, load_labels = LoadImageFromFile(), LoadAnnotations(reduce_zero_label=True)
    fields = {'img_path': str(image), 'seg_map_path': str(labels), 'seg_fields': [], 'reduce_zero_label': True}

    def loaded():
        return load_labels(load({**fields, 'seg_fields': []}))

    sample = loaded()
    checking = least_seconds(lambda: (check_image(sample, load), check_label_map(sample)))
    loading = least_seconds(loaded)
    assert checking < 0.1 * loading, (checking, loading)
    calls = []
    monkeypatch.setattr(samples, 'decoding_fault', lambda path: calls.append(path) or '')
    check_image(sample, load)
    assert not calls and np.isfinite(checking)  # nothing is decoded a second time

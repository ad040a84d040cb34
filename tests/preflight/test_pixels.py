"""Channels and values of images, compared with the model, in the three libraries."""

import re

import cv2
import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from mmfreq.errors import DataError
from mmfreq.preflight.classification import check_images
from mmfreq.preflight.coco import check_coco
from mmfreq.preflight.pixels import check_normalization
from mmfreq.preflight.segmentation import check_pairs
from mmfreq.testing.toy_segmentation import toy_segmentation_config
from tests.configs.names import LEAFS
from tests.configs.reading import CONFIGS, check_each, read_config

LOADERS = ('train_dataloader', 'val_dataloader')
CHECKS = {'mmseg': check_pairs, 'mmdet': check_coco, 'mmpretrain': check_images}
PHOTO = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]}
UNIT = {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}
UNCHANGED, FLOAT = {'color_type': 'unchanged'}, {'color_type': 'unchanged', 'to_float32': True}


@TRANSFORMS.register_module()
class OfAUser(BaseTransform):
    """A transform of a user, after which images may be anything."""

    def transform(self, results):
        return results


def noise(channels=3, top=256, dtype=np.uint8):
    shape = (30, 40, channels) if channels > 1 else (30, 40)
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


@pytest.fixture
def checked(tmp_path, report, write_coco, detection):
    """`checked(library, image, in_channels)`: the warnings about a config of this model, whose data are copies of the image."""

    def segmentation(image):
        for split in ('training', 'validation'):
            for kind in ('images', 'annotations'):
                (tmp_path / kind / split).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / 'images' / split / '0.png'), image)
            cv2.imwrite(str(tmp_path / 'annotations' / split / '0.png'), np.resize(np.uint8([0, 1]), (30, 40)))
        cfg = Config(toy_segmentation_config(tmp_path))
        cfg.model.decode_head.num_classes = 2
        leaf = {
            'type': 'BaseSegDataset',
            'metainfo': {'classes': ('ground', 'disk')},
            'img_suffix': '.png',
            'reduce_zero_label': False,
        }
        for loader in LOADERS:
            cfg[loader].dataset.update(leaf)
        return cfg, [{'type': 'LoadAnnotations'}], [{'type': 'PackSegInputs'}]

    def coco(image):
        def change(table):
            for row in table['images']:
                row['file_name'] = row['file_name'].replace('jpg', 'png')
                cv2.imwrite(str(tmp_path / 'images' / row['file_name']), image)

        cfg = detection(write_coco(change), write_coco(change, name='val.json'))
        return cfg, [{'type': 'LoadAnnotations', 'with_bbox': True}], [{'type': 'PackDetInputs'}]

    def classification(image):
        loaders = {}
        for split, loader in zip(('train', 'val'), LOADERS, strict=True):
            for folder in 'ab':
                (tmp_path / split / folder).mkdir(parents=True)
                cv2.imwrite(str(tmp_path / split / folder / '0.png'), image)
            loaders[loader] = {'dataset': {'type': 'CustomDataset', 'data_root': str(tmp_path), 'data_prefix': split}}
        model = {'type': 'ImageClassifier', 'head': {'type': 'LinearClsHead', 'num_classes': 2}}
        evaluator = {'type': 'Accuracy', 'topk': 1}
        cfg = Config({'default_scope': 'mmpretrain', 'model': model, 'val_evaluator': evaluator, **loaders})
        return cfg, [], [{'type': 'PackInputs'}]

    libraries = {'mmseg': segmentation, 'mmdet': coco, 'mmpretrain': classification}

    def check(library, image, in_channels=3, load=(), values=PHOTO, steps=()):
        cfg, labels, pack = libraries[library](image)
        cfg.model.backbone = {'type': 'mmfreq.HorNet', 'arch': 'hornet-micro', 'in_channels': in_channels}
        cfg.model.data_preprocessor = dict(values)
        for loader in LOADERS:
            cfg[loader].dataset.pipeline = [{'type': 'LoadImageFromFile', **dict(load)}, *labels, *steps, *pack]
        CHECKS[library](cfg, report, LOADERS)
        return [text for text in report.warnings if 'data_preprocessor' in text]

    return check


CHANNELS = {  # channels of the files, of the model, how they are read -> the error
    'gray for a model of three': (1, 3, UNCHANGED, r'0\.png has 1 channels, but the model takes in_channels=3'),
    'read as gray for a model of three': (3, 3, {'color_type': 'grayscale'}, r'0\.png has 1 channels, .*in_channels=3'),
    'color for a model of one': (3, 1, {}, r'0\.png has 3 channels, but the model takes in_channels=1'),
    'four for a model of three': (4, 3, UNCHANGED, r'0\.png has 4 channels, .*in_channels=3'),
}


@pytest.mark.parametrize('library', CHECKS)
@pytest.mark.parametrize('case', CHANNELS)
def test_images_of_other_channels_are_refused(checked, library, case):
    channels, in_channels, load, pattern = CHANNELS[case]
    with pytest.raises(DataError, match=rf'(?s)^train_dataloader\.dataset: .*{pattern}'):
        checked(library, noise(channels), in_channels, load)


@pytest.mark.parametrize('library', CHECKS)
@pytest.mark.parametrize(('channels', 'load'), [(1, UNCHANGED), (3, {'color_type': 'grayscale'}), (3, {}), (1, {}), (4, UNCHANGED)])
def test_images_of_the_models_channels_pass(checked, library, channels, load):
    read = channels if load == UNCHANGED else 1 if load else 3
    assert not checked(library, noise(channels), read, load, values={'mean': [120.0] * read, 'std': [60.0] * read})


VALUES = {  # image, how it is read, mean and std -> the warning
    'mean of 0..1': (noise(), {}, UNIT, r'mean 129\.9 .*mean=\[0\.485, .*change to 5\d\d'),
    '16 bits, mean of 8': (
        noise(top=65536, dtype=np.uint16),
        FLOAT,
        PHOTO,
        r'mean 3\.\d+e\+04 .*mean=\[123\.675, .*change to 5\d\d',
    ),
    '8 bits, mean of 16': (noise(), {}, {'mean': [3000.0] * 3, 'std': [6000.0] * 3}, r'mean=\[3000\.0, .* and 0\.0124; expected'),
}


@pytest.mark.parametrize('library', CHECKS)
@pytest.mark.parametrize('case', VALUES)
def test_mean_and_std_in_another_unit_are_a_warning(checked, library, case):
    image, load, values, pattern = VALUES[case]
    warnings = checked(library, image, 3, load, values)
    assert [text.split(':')[0] for text in warnings] == [f'{loader}.dataset' for loader in LOADERS[: len(warnings)]]
    assert warnings and re.search(pattern, warnings[0])


@pytest.mark.parametrize('library', CHECKS)
@pytest.mark.parametrize(
    ('image', 'values'),
    [(noise(), PHOTO), (noise(top=20), PHOTO), (noise() * 0, PHOTO), (noise() * 0, UNIT), (noise(), {'mean': None, 'std': None})],
)
def test_dark_and_constant_images_pass(checked, library, image, values):
    assert not checked(library, image, values=values)


NOT_JUDGED = {'of a user': 'OfAUser', 'normalizes': 'mmcv.Normalize', 'gray': 'mmseg.RGB2Gray', 'values': 'mmseg.Rerange'}


@pytest.mark.parametrize('library', CHECKS)
@pytest.mark.parametrize('case', NOT_JUDGED)
def test_pipelines_that_change_channels_or_values_are_not_judged(checked, library, case):
    assert not checked(library, noise(), 1, values=UNIT, steps=[{'type': NOT_JUDGED[case]}])


LENGTHS = {  # channels, mean, std -> the error
    'three means of one': (1, PHOTO['mean'], None, r'data_preprocessor\.mean has 3 values, but the model takes 1 channels'),
    'three stds of six': (6, None, PHOTO['std'], r'data_preprocessor\.std has 3 values, .*6 channels.*in_channels=3'),
    'two means of three': (3, [1.0, 2.0], None, r'mean has 2 values'),
}


@pytest.mark.parametrize('case', LENGTHS)
@pytest.mark.parametrize('place', ['model', 'config'])
def test_other_numbers_of_means_than_channels(report, case, place):
    channels, mean, std, pattern = LENGTHS[case]
    cfg = Config({'model': {'backbone': {'type': 'X', 'in_channels': channels}}})
    (cfg.model if place == 'model' else cfg)['data_preprocessor'] = {'mean': mean, 'std': std}
    with pytest.raises(DataError, match=pattern):
        check_normalization(cfg, report, None)


@pytest.mark.parametrize(('channels', 'number'), [(1, 1), (3, 1), (3, 3), (6, 6)])
def test_one_mean_per_channel_or_for_all(report, channels, number):
    cfg = Config({'model': {'backbone': {'type': 'X', 'in_channels': channels}, 'data_preprocessor': {'mean': [1.0] * number}}})
    check_normalization(cfg, report, None)


def test_the_configs_have_a_mean_of_each_channel(report):
    check_each([*LEAFS, *sorted(CONFIGS.glob('cls/*/*.py'))], lambda path: check_normalization(read_config(path), report, None))

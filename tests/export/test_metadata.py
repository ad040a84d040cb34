"""The metadata of an exported file: what a program needs to know to run it."""

import json
from pathlib import Path

import pytest
from torch import nn

import mmfreq  # noqa: F401
from mmfreq.apis.loading import LoadedModel, Normalization, load_model, palette_of
from mmfreq.apis.preprocessing import described_preprocessing
from mmfreq.apis.reading import ImageReader
from mmfreq.export.metadata import metadata_of, notes_of, thresholds_of

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


@pytest.fixture(scope='module')
def detector():
    return load_model(str(CONFIGS / 'det/dfformer/dfformer-micro_retinanet_1xb2-32e_fruits-nuts-240x320.py'))


def test_entries_of_a_detector(detector):
    found = json.loads(json.dumps(metadata_of(detector, 'raw')))
    assert (found['task'], found['output'], found['arch']) == ('detection', 'raw', 'dfformer-micro')
    assert found['classes'] == ['date', 'fig', 'hazelnut'] and found['palette'] == [[200, 30, 60], [110, 190, 40], [240, 160, 60]]
    assert (found['mean'], found['channels'], found['pixels']) == ([123.675, 116.28, 103.53], 'RGB', '0..255')
    assert found['thresholds'] == {'score': 0.3, 'iou': 0.5} and found['notes'] == []
    assert found['preprocessing'] == detector.preprocessing
    assert found['preprocessing']['pad'] == {'divisor': 32, 'value': [0, 0, 0]}


def test_file_of_one_size_has_the_preprocessing_for_it(detector):
    steps = metadata_of(detector, size=(240, 320))['preprocessing']
    assert steps['resize'][0]['rule'] == 'fit' and steps['pad']['size'] == [240, 320]


def test_thresholds_of_two_stage_detectors_are_those_of_the_second():
    loaded = load_model(str(CONFIGS / 'det/hornet/hornet-micro_mask-rcnn_1xb2-16e_fruits-nuts-240x320.py'))
    assert thresholds_of(loaded) == {'score': 0.3, 'iou': 0.5, 'mask': 0.5}


def test_entries_of_an_arch():
    found = metadata_of(load_model('gfnet-h-micro'))
    assert (found['output'], found['classes'], found['palette'], found['thresholds']) == ('logits', (), (), {})
    assert found['preprocessing']['crop'] == [224, 224] and not found['trained']


def test_segmentor_with_windows_is_noted(toy_config):
    loaded = load_model(str(toy_config))
    assert notes_of(loaded) == [] and thresholds_of(loaded) == {} and len(loaded.palette) == len(loaded.classes) == 6
    options = {'model.test_cfg': dict(mode='slide', crop_size=(64, 96), stride=(40, 40))}
    (note,) = notes_of(load_model(str(toy_config), cfg_options=options))
    assert 'windows of 64x96' in note and 'the file takes the whole image' in note


def test_threshold_of_a_segmentor_with_one_channel(toy_config):
    options = {'model.decode_head.num_classes': 2, 'model.decode_head.out_channels': 1, 'model.decode_head.threshold': 0.4}
    assert thresholds_of(load_model(str(toy_config), cfg_options=options)) == {'score': 0.4}


def test_pixels_and_steps_of_other_pipelines():
    steps = described_preprocessing([{'type': 'LoadImageFromFile'}, {'type': 'Rotate'}], nn.Identity(), 1)
    reader = ImageReader({'type': 'LoadImageFromFile', 'color_type': 'unchanged'}, channels=1)
    model = LoadedModel(
        nn.Identity(), 'x', 'features', (64, 64), Normalization((1.0,), (2.0,), 'gray'), (), False, reader, (), steps
    )
    found = metadata_of(model)
    assert (found['pixels'], found['channels']) == ('as in the file', 'gray')
    assert found['notes'] == ['Steps of the test pipeline that the file does not describe: Rotate().']


def test_palette_has_a_color_for_each_class():
    metainfo = {'classes': ('a', 'b'), 'palette': [(1, 2, 3), (4, 5, 6)]}
    assert palette_of(metainfo, {}) == ((1, 2, 3), (4, 5, 6))
    assert palette_of(metainfo, {'classes': ('x',), 'palette': [(7, 8, 9)]}) == ((7, 8, 9),)
    arbitrary = palette_of({'classes': ('a', 'b'), 'palette': 'random'}, {})
    assert len(set(arbitrary)) == 2 and arbitrary == palette_of({'classes': ('x', 'y')}, {})


def test_subset_of_classes_keeps_their_colors():
    config = CONFIGS / 'seg/hornet/hornet-tiny-gf_upernet_1xb8-10k_camvid-360x480.py'
    options = {'model.backbone.arch': 'hornet-micro', 'model.decode_head.in_channels': [16, 32, 64, 128]}
    options |= {'model.decode_head.channels': 16, 'model.auxiliary_head.in_channels': 64, 'model.auxiliary_head.channels': 16}
    published = load_model(str(config), cfg_options=options)
    colors = dict(zip(published.classes, published.palette))
    names = published.classes[3:5]
    subset = load_model(str(config), cfg_options={**options, 'test_dataloader.dataset.metainfo': dict(classes=names)})
    assert subset.palette == tuple(colors[name] for name in names)

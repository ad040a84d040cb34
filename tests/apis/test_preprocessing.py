"""Test pipelines as data: each config of the repository is described completely, other steps are listed."""

from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn

import mmfreq  # noqa: F401
from mmfreq.apis.loading import build_model, innermost_dataset, load_model, read_config
from mmfreq.apis.preprocessing import RULES, described_preprocessing, preprocessing_at, published_preprocessing

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
LOAD = {'type': 'LoadImageFromFile'}
PLAIN, PILLOW = ({'interpolation': how, 'antialias': how == 'bicubic'} for how in ('bilinear', 'bicubic'))
WITHIN = {'rule': 'within', 'long': 1333, 'short': 800, **PLAIN}
MULTIPLE = {'rule': 'multiple', 'divisor': 32, 'down': False, **PLAIN}
IMAGENET = {'resize': [{'rule': 'cover', 'size': [256, 256], **PILLOW}], 'crop': [224, 224], 'pad': None, 'undescribed': []}


def described(*steps, preprocessor=None):
    return described_preprocessing([LOAD, *steps], preprocessor or nn.Identity(), 3)


def test_pipeline_of_every_config_is_described():
    pipelines = []
    for path in sorted(CONFIGS.rglob('*.py')):
        cfg = Config.fromfile(path)
        if 'model' in cfg and 'test_dataloader' in cfg:
            pipelines.append(innermost_dataset(cfg.test_dataloader.dataset).pipeline)
    found = [described_preprocessing(pipeline, nn.Identity(), 3) for pipeline in pipelines]
    assert len(found) > 80
    assert [each['undescribed'] for each in found] == [[]] * len(found)
    rules = {step['rule'] for each in found for step in each['resize']}
    assert rules == {*RULES} - {'fit'}  # that one is for files of one size


@pytest.mark.parametrize(
    ('steps', 'resize', 'crop'),
    [
        ([dict(type='Resize', scale=(1333, 800), keep_ratio=True), dict(type='mmdet.PackDetInputs')], [WITHIN], None),
        ([dict(type='Resize', scale=(800, 1333), keep_ratio=True)], [WITHIN], None),
        ([dict(type='Resize', scale=(320, 240))], [{'rule': 'stretch', 'size': [240, 320], **PLAIN}], None),
        ([dict(type='mmdet.Resize', scale_factor=1.0)], [], None),
        ([dict(type='Resize', scale=(1333, 800), keep_ratio=True), dict(type='ResizeToMultiple')], [WITHIN, MULTIPLE], None),
        (
            [dict(type='ResizeEdge', scale=256, backend='pillow', interpolation='bicubic'), dict(type='CenterCrop', crop_size=224)],
            IMAGENET['resize'],
            [224, 224],
        ),
    ],
)
def test_steps_as_data(steps, resize, crop):
    assert described(*steps) == {'resize': resize, 'crop': crop, 'pad': None, 'undescribed': []}


@pytest.mark.parametrize(
    ('steps', 'shown'),
    [
        ([dict(type='Resize', scale=64, interpolation='area')], "Resize(scale=64, interpolation='area')"),
        ([dict(type='Resize', scale_factor=0.5)], 'Resize(scale_factor=0.5)'),
        ([dict(type='ResizeEdge', scale=64, edge='long')], "ResizeEdge(scale=64, edge='long')"),
        ([dict(type='mmpretrain.Albumentations', transforms=[])], 'Albumentations(transforms=[])'),
        ([dict(type='CenterCrop', crop_size=64), dict(type='Resize', scale=64)], 'Resize(scale=64)'),
        ([dict(type='CenterCrop', crop_size=64), dict(type='CenterCrop', crop_size=32)], 'CenterCrop(crop_size=32)'),
        ([dict(type='Pad', size_divisor=32)], 'Pad(size_divisor=32)'),
        ([dict(type='CenterCrop', crop_size=64, auto_pad=True)], 'CenterCrop(crop_size=64, auto_pad=True)'),
    ],
)
def test_other_steps_are_listed(steps, shown):
    assert described(*steps)['undescribed'] == [shown]


def test_pipeline_that_loads_no_file_is_listed():
    assert described_preprocessing([dict(type='LoadImageFromNDArray')], nn.Identity(), 3)['undescribed'] == [
        'LoadImageFromNDArray()'
    ]


def test_padding_is_that_of_the_data_preprocessor():
    from mmdet.models import DetDataPreprocessor
    from mmseg.models import SegDataPreProcessor

    pads = [DetDataPreprocessor(pad_size_divisor=32, pad_value=1), DetDataPreprocessor(), SegDataPreProcessor(size=(64, 64))]
    pads += [SegDataPreProcessor(pad_val=2, test_cfg=dict(size=(64, 96))), SegDataPreProcessor(test_cfg=dict(size_divisor=16))]
    assert [described(preprocessor=each)['pad'] for each in pads] == [
        {'divisor': 32, 'value': [1.0] * 3},
        None,
        None,
        {'size': [64, 96], 'value': [2.0] * 3},
        {'divisor': 16, 'value': [0.0] * 3},
    ]


def test_published_evaluation_of_archs():
    assert published_preprocessing('gfnet-h-ti') == load_model('gfnet-h-micro').preprocessing == IMAGENET
    assert published_preprocessing('affnet')['resize'][0]['size'] == [288, 288]
    assert published_preprocessing('dfformer-s18')['resize'][0]['size'] == published_preprocessing('dfformer-s18')['crop']


def test_published_evaluation_is_that_of_the_config():
    cfg = read_config(CONFIGS / 'cls/gfnet/gfnet-ti_8xb128-300e_in1k.py')
    model, _ = build_model(cfg, None)
    assert described_preprocessing(cfg.test_dataloader.dataset.pipeline, model.data_preprocessor, 3) == published_preprocessing(
        'gfnet-ti'
    )


def test_description_for_files_of_one_size():
    fit = {'rule': 'fit', 'size': [64, 96], **PLAIN}
    stretch = {**fit, 'rule': 'stretch'}
    within = described(dict(type='Resize', scale=(1333, 800), keep_ratio=True))
    assert preprocessing_at(within, (64, 96), 'segmentation') == {**within, 'resize': [stretch]}
    padded = {**within, 'pad': {'divisor': 32, 'value': [1.0]}}
    at = preprocessing_at(padded, (64, 96), 'detection')
    assert at == {**within, 'resize': [fit], 'pad': {'size': [64, 96], 'value': [1.0]}}
    stretched = described(dict(type='Resize', scale=(320, 320)))
    assert preprocessing_at(stretched, (64, 96), 'detection')['resize'] == [stretch]
    assert preprocessing_at(IMAGENET, (224, 224), 'classification') == IMAGENET
    at = preprocessing_at(IMAGENET, (112, 448), 'classification')
    assert (at['resize'][0]['size'], at['crop']) == ([128, 512], [112, 448])

"""The channels of a config's model: from the argument of its backbone, or from the default of its class."""

import pytest
from mmengine.config import Config

import mmfreq  # noqa: F401
from mmfreq.config.image_channels import image_channels

# name -> (backbone, mean, channels)
BACKBONES = {
    'argument': (dict(type='mmfreq.HorNet', arch='hornet-micro', in_channels=5), None, 5),
    'another name of the argument': (dict(type='X', in_chans=2), None, 2),
    'default of the class': (dict(type='mmfreq.HorNet', arch='hornet-micro'), [120.0], 3),
    'default of a class that it extends': (dict(type='ResNetV1c', depth=18), [1, 2, 3, 4], 3),
    'inner backbone': (dict(type='STDCContextPathNet', backbone_cfg=dict(type='STDCNet', in_channels=1)), [1.0, 2, 3], 1),
    'a class without the argument': (dict(type='MobileNetV2'), [1.0, 2, 3], 3),
    'unknown class, by its mean': (dict(type='NoSuchBackbone'), [1.0, 2, 3, 4], 4),
    'unknown class without a mean': (dict(type='NoSuchBackbone'), None, 3),
}


@pytest.mark.parametrize('case', BACKBONES)
def test_channels(case):
    pytest.importorskip('mmseg')
    backbone, mean, channels = BACKBONES[case]
    preprocessor = dict(type='SegDataPreProcessor', mean=mean)
    cfg = dict(default_scope='mmseg', model=dict(type='EncoderDecoder', backbone=backbone))
    assert image_channels(Config(cfg | dict(data_preprocessor=preprocessor))) == channels
    cfg['model']['data_preprocessor'] = preprocessor
    assert image_channels(Config(cfg)) == channels


def test_classifier_by_its_arch():
    model = dict(type='mmfreq.FrequencyImageClassifier', arch='hornet-micro')
    for options, channels in ((dict(), 3), (dict(in_channels=2), 2)):
        assert image_channels(Config(dict(default_scope='mmpretrain', model=model | options))) == channels

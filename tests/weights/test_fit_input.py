"""Weights for RGB images in models with other numbers of channels, a prefix in a file, and the fields of an init_cfg."""

import pytest
import torch
from timm.models._manipulate import adapt_input_conv

import mmfreq
from mmfreq.compat.safe_load import CheckpointError
from mmfreq.weights.load import PRETRAINED_FIELDS, check_fit, pretrained_options

MICRO = ('hornet-micro', 'gfnet-h-micro', 'dfformer-micro', 'affnet-micro', 'gfnet-micro')


@pytest.mark.parametrize('channels', [1, 2, 4, 5, 6, 13])
@pytest.mark.parametrize('arch', MICRO)
def test_input_channels_are_fitted_as_in_timm(arch, channels):
    state = mmfreq.build_classifier(arch).state_dict()
    model = mmfreq.build_backbone(arch, in_channels=channels)
    name = model.first_convolution()
    report = mmfreq.load_weights(model, state)
    assert torch.equal(model.state_dict()[name], adapt_input_conv(channels, state[name]))
    assert list(report.adapted) == [name] and f'adapted {name}: the three input channels' in str(report)


@pytest.mark.parametrize('channels', [3, 4])
def test_weights_for_the_same_channels_stay(channels):
    state = mmfreq.build_backbone('hornet-micro', in_channels=channels).state_dict()
    report = mmfreq.load_weights(mmfreq.build_backbone('hornet-micro', in_channels=channels), state)
    assert not report.adapted


def test_weights_for_other_images_than_rgb_are_refused():
    state = mmfreq.build_backbone('hornet-micro', in_channels=4).state_dict()
    with pytest.raises(CheckpointError, match='of another shape'):
        mmfreq.load_weights(mmfreq.build_backbone('hornet-micro'), state)


@pytest.fixture
def two_networks(tmp_path):
    states = [mmfreq.build_backbone('hornet-micro').state_dict() for _ in range(2)]
    names = ('backbone.', 'momentum_encoder.module.0.')
    content = {prefix + name: value for prefix, state in zip(names, states) for name, value in state.items()}
    torch.save({'state_dict': content}, tmp_path / 'two.pth')
    return tmp_path / 'two.pth', dict(zip(names, states))


@pytest.mark.parametrize('dot', ['', '.'])
def test_a_prefix_chooses_the_network(two_networks, dot):
    path, states = two_networks
    for prefix, state in states.items():
        init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix=prefix.removesuffix('.') + dot, map_location='cpu')
        for wrapped in (init_cfg, [init_cfg]):
            model = mmfreq.build_backbone('hornet-micro', init_cfg=wrapped)
            model.init_weights()
            assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"begin with the prefix 'encoder\.', found backbone\."):
        mmfreq.load_weights(mmfreq.build_backbone('hornet-micro'), path, prefix='encoder')


def test_unknown_fields_of_an_init_cfg_are_refused():
    assert pretrained_options(None) is None and pretrained_options(dict(type='Normal', std=1)) is None
    with pytest.raises(ValueError, match=f'fields {", ".join(PRETRAINED_FIELDS)}, found the unknown fields prefx'):
        mmfreq.build_backbone('hornet-micro', init_cfg=dict(type='Pretrained', checkpoint='x', prefx='a')).init_weights()
    with pytest.raises(ValueError, match='found no checkpoint'):
        pretrained_options(dict(type='Pretrained'))


def test_pretrained_keeps_a_new_last_layer_for_other_classes(tmp_path, caplog):
    state = mmfreq.build_classifier('dfformer-micro', num_classes=7).state_dict()
    torch.save(state, tmp_path / 'a.pth')
    for classes in (7, 3, 0):
        model = mmfreq.build_classifier('dfformer-micro', num_classes=classes, pretrained=tmp_path / 'a.pth')
        same = torch.equal(model.state_dict()['head.fc1.weight'], state['head.fc1.weight'])
        assert same and model.num_classes == classes
    assert torch.equal(
        mmfreq.build_backbone('dfformer-micro', pretrained=str(tmp_path / 'a.pth')).state_dict()['stages.0.0.norm1.weight'],
        state['stages.0.0.norm1.weight'],
    )


def test_the_refusal_names_the_way_to_another_number_of_classes():
    state = mmfreq.build_classifier('hornet-micro', num_classes=7).state_dict()
    with pytest.raises(CheckpointError, match=r"use fresh=\('head\.',\) in load_weights or in init_cfg"):
        check_fit(mmfreq.build_classifier('hornet-micro', num_classes=3), state)
    with pytest.raises(CheckpointError, match=r"No weights of 'hornet-micro' are published"):
        mmfreq.build_backbone('hornet-micro', pretrained=True)
    with pytest.raises(CheckpointError, match=r'tags in1k, in1k-dense, ade20k, coco'):
        mmfreq.build_backbone('hornet-tiny-gf', pretrained='in22k')

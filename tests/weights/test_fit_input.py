"""Weights for RGB images in models with other numbers of channels, a prefix in a file, and the fields of an init_cfg."""

import pytest
import torch
from mmengine.config import Config
from timm.models._manipulate import adapt_input_conv

import mmfreq
from mmfreq.compat.safe_load import CheckpointError
from mmfreq.weights.in_configs import describe_start, drop_pretrained
from mmfreq.weights.load import PRETRAINED, PRETRAINED_FIELDS, check_fit, pretrained_options

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
    with pytest.raises(CheckpointError, match=r'images of 4 channels.*in_channels=4'):
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


def test_a_prefix_with_the_module_of_ddp(tmp_path):
    """As in the files of MoCo, in which every name begins with `module.`."""
    states = {name: mmfreq.build_backbone('hornet-micro').state_dict() for name in ('encoder_q', 'encoder_k')}
    content = {f'module.{name}.{key}': value for name, state in states.items() for key, value in state.items()}
    torch.save({'state_dict': {**content, 'module.queue': torch.zeros(3)}}, tmp_path / 'moco.pth')
    for prefix in ('module.encoder_k', 'module.encoder_k.', 'encoder_k.'):
        model = mmfreq.build_backbone('hornet-micro')
        mmfreq.load_weights(model, tmp_path / 'moco.pth', prefix=prefix)
        assert all(torch.equal(value, states['encoder_k'][key]) for key, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r'found module\.encoder_q\.'):
        mmfreq.load_weights(mmfreq.build_backbone('hornet-micro'), tmp_path / 'moco.pth', prefix='module.teacher')


def test_the_refusal_of_several_networks_names_their_prefixes(two_networks):
    path, _ = two_networks
    content = torch.load(path, weights_only=True)['state_dict']
    renamed = {name.replace('backbone.', 'student.'): value for name, value in content.items()}
    with pytest.raises(CheckpointError, match=r'prefix=.*student\..*momentum_encoder\.module\.0\.') as error:
        mmfreq.load_weights(mmfreq.build_backbone('hornet-micro'), renamed)
    assert 'stages.' not in str(error.value).partition('prefix=')[2]


@pytest.mark.parametrize('type_', PRETRAINED, ids=str)
def test_an_init_cfg_with_further_entries_is_as_strict(tmp_path, type_):
    state = mmfreq.build_backbone('hornet-micro').state_dict()
    torch.save(state, tmp_path / 'whole.pth')
    torch.save(dict(list(state.items())[::2]), tmp_path / 'half.pth')
    constant = dict(type='Constant', layer='LayerNorm', val=7.0)

    def build(**changes):
        init = dict(type=type_, checkpoint=str(tmp_path / 'whole.pth')) | changes
        model = mmfreq.build_backbone('hornet-micro', init_cfg=[init, constant])
        model.init_weights()
        return model.state_dict(), [init, constant]

    built, init_cfg = build()
    assert all(torch.equal(value, state[name]) for name, value in built.items())
    with pytest.raises(CheckpointError, match='in the model, not in the file'):
        build(checkpoint=str(tmp_path / 'half.pth'))
    with pytest.raises(ValueError, match='did you mean prefix'):
        build(prefx='a')
    with pytest.raises(ValueError, match='Expected one init_cfg of type Pretrained, found 2'):
        pretrained_options(init_cfg[:1] * 2)
    cfg = Config(dict(model=dict(backbone=dict(init_cfg=init_cfg))))
    assert 'whole.pth' in describe_start(cfg)
    drop_pretrained(cfg.model)
    assert cfg.model.backbone.init_cfg == [constant] and 'random values' in describe_start(cfg)


def test_unknown_fields_of_an_init_cfg_are_refused():
    assert pretrained_options(None) is None and pretrained_options(dict(type='Normal', std=1)) is None
    with pytest.raises(ValueError, match=rf'fields {", ".join(PRETRAINED_FIELDS)}, found unknown: prefx \(did you mean prefix\?\)'):
        mmfreq.build_backbone('hornet-micro', init_cfg=dict(type='Pretrained', checkpoint='x', prefx='a')).init_weights()
    with pytest.raises(ValueError, match='found no checkpoint'):
        pretrained_options(dict(type='Pretrained'))


def test_pretrained_keeps_a_new_last_layer_for_other_classes(tmp_path, caplog):
    state = mmfreq.build_classifier('dfformer-micro', num_classes=7).state_dict()
    torch.save(state, tmp_path / 'a.pth')
    assert mmfreq.build_classifier('dfformer-micro', pretrained=tmp_path / 'a.pth').num_classes == 7  # none were asked for
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
    with pytest.raises(CheckpointError, match=r"use fresh=\('head\.',\) in load_weights or init_cfg"):
        check_fit(mmfreq.build_classifier('hornet-micro', num_classes=3), state)
    with pytest.raises(CheckpointError, match=r"No weights of 'hornet-micro' are published"):
        mmfreq.build_backbone('hornet-micro', pretrained=True)
    with pytest.raises(CheckpointError, match=r'tags in1k, in1k-dense, ade20k, coco'):
        mmfreq.build_backbone('hornet-tiny-gf', pretrained='in22k')


def test_a_file_without_a_last_layer_is_refused_with_the_way_out():
    state = mmfreq.build_classifier('hornet-micro', num_classes=0).state_dict()
    with pytest.raises(CheckpointError, match=r"no last layer. For a new one, use fresh=\('head\.',\)"):
        mmfreq.load_weights(mmfreq.build_classifier('hornet-micro'), state)
    mmfreq.load_weights(mmfreq.build_classifier('hornet-micro'), state, fresh=('head.',))


def test_a_tag_is_a_tag_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'in1k').mkdir()
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(CheckpointError, match='mmfreq://gfnet-ti/in1k are not on this machine, and MMFREQ_OFFLINE forbids'):
        mmfreq.build_classifier('gfnet-ti', pretrained='in1k')


def test_a_url_of_another_scheme_is_read_by_its_loader():
    from mmengine.runner import CheckpointLoader

    state = mmfreq.build_backbone('hornet-micro').state_dict()
    CheckpointLoader.register_scheme('mine://', lambda filename, map_location=None: {'state_dict': state})
    model = mmfreq.build_backbone('hornet-micro', init_cfg=dict(type='Pretrained', checkpoint='mine://x'))
    model.init_weights()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    del CheckpointLoader._schemes['mine://']

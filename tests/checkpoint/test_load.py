"""Published layouts fill the model they belong to, and nothing else does."""

import re

import pytest
import torch
from mmengine.runner.checkpoint import _load_checkpoint_to_model

import mmfreq
from mmfreq.checkpoint.load import adapt_checkpoint
from mmfreq.compat.safe_load import CheckpointError
from mmfreq.models.backbones.hornet import HorNet
from mmfreq.ops import resize_filter
from mmfreq.testing.golden import golden_state

ARCH = 'hornet-micro'


@pytest.fixture
def classifier_state():
    """An official classification file for the micro arch."""
    shapes = {n: p.shape for n, p in mmfreq.build_classifier(ARCH).state_dict().items()}
    return golden_state(shapes)


@pytest.fixture
def dense_state():
    return golden_state({n: p.shape for n, p in mmfreq.build_backbone(ARCH).state_dict().items()})


def to_mmpretrain(state, prefix='backbone.'):
    """The names of mmpretrain's classifier for an official state dict."""
    out = {}
    for name, value in state.items():
        name = name.replace('.pws.', '.projs.')
        name = re.sub(r'(gamma[12])$', r'\1.weight', name)
        name = re.sub(r'^norm\.', 'norm3.', name)
        out[name.replace('head.', 'head.fc.') if name.startswith('head.') else prefix + name] = value
    return out


def same(model, state):
    own = model.state_dict()
    return {n for n in own if n in state and torch.equal(own[n], state[n])}


WRAPPINGS = {
    'bare': lambda s: s,
    'bare beside an epoch': lambda s: {'epoch': 3, **s},
    'model': lambda s: {'model': s},
    'state_dict': lambda s: {'state_dict': s, 'meta': {}},
    'module prefix': lambda s: {'model': {'module.' + n: v for n, v in s.items()}},
}


@pytest.mark.parametrize('wrap', WRAPPINGS.values(), ids=WRAPPINGS)
def test_official_classification_file_fills_the_dense_backbone(wrap, classifier_state):
    model = mmfreq.build_backbone(ARCH)
    report = mmfreq.load_weights(model, wrap(classifier_state))
    trunk = {n for n in model.state_dict() if not n.startswith('norm')}
    assert same(model, classifier_state) == trunk and report.loaded == len(trunk)
    assert report.layout == 'official'
    assert {n for n in report.dropped if 'head' in n or 'norm.' in n} == set(report.dropped) and len(report.dropped) == 4
    assert set(report.fresh) == {f'norm{i}.{p}' for i in range(4) for p in ('weight', 'bias')}
    assert all((getattr(model, f'norm{i}').weight == 1).all() for i in range(4))
    for name in (*report.dropped, *report.fresh):
        assert name in str(report)


@pytest.mark.parametrize('prefix', ['backbone.', ''])
def test_mmpretrain_file_fills_backbone_and_classifier(prefix, classifier_state):
    theirs = to_mmpretrain(classifier_state, prefix)
    model = mmfreq.build_backbone(ARCH)
    report = mmfreq.load_weights(model, {'state_dict': theirs})
    assert report.layout == 'mmpretrain classifier'
    assert same(model, classifier_state) == {n for n in model.state_dict() if not n.startswith('norm')}
    assert (model.norm3.weight == 1).all(), "the classifier's norm must not become an output norm"
    classifier = mmfreq.build_classifier(ARCH)
    mmfreq.load_weights(classifier, {'state_dict': theirs})
    assert same(classifier, classifier_state) == set(classifier_state)


def test_mmpretrain_dense_file_keeps_its_output_norms(dense_state):
    model = mmfreq.build_backbone(ARCH)
    report = mmfreq.load_weights(model, to_mmpretrain(dense_state))
    assert report.layout == 'mmpretrain' and same(model, dense_state) == set(dense_state)


def test_official_segmentor_file_fills_the_backbone(dense_state):
    whole = {'backbone.' + n: v for n, v in dense_state.items()} | {'decode_head.conv_seg.weight': torch.ones(1)}
    model = mmfreq.build_backbone(ARCH)
    report = mmfreq.load_weights(model, {'state_dict': whole})
    assert same(model, dense_state) == set(dense_state) and list(report.dropped) == ['decode_head.conv_seg.weight']


def test_filters_are_resized_by_the_published_rule(dense_state):
    model = mmfreq.build_backbone(ARCH, img_size=384)
    report = mmfreq.load_weights(model, dense_state)
    name = 'stages.2.0.gnconv.dwconv.complex_weight'
    assert report.resized[name][0][1:3] == (14, 8) and report.resized[name][1][1:3] == (24, 13)
    torch.testing.assert_close(model.state_dict()[name], resize_filter(dense_state[name], (24, 24), 'bilinear'))
    assert len(report.resized) == 3


def test_output_norms_of_other_stages_are_dropped(dense_state):
    model = mmfreq.build_backbone(ARCH, out_indices=(1, 3))
    report = mmfreq.load_weights(model, dense_state)
    assert {n.split('.')[0] for n in report.dropped} == {'norm0', 'norm2'} and not report.fresh


def test_stages_that_are_not_built_are_dropped(dense_state):
    model = mmfreq.build_backbone(ARCH, out_indices=(0, 1))
    report = mmfreq.load_weights(model, dense_state)
    assert {'.'.join(n.split('.')[:2]) for n in report.dropped if not n.startswith('norm')} == {
        'stages.2', 'stages.3', 'downsample_layers.2', 'downsample_layers.3'
    }  # fmt: skip
    assert same(model, dense_state) == set(model.state_dict())


def by_load_state_dict(model, state):
    model.load_state_dict(state)


def by_mmengine(model, state):
    _load_checkpoint_to_model(model, {'state_dict': state}, strict=True)


def by_init_cfg(model, state, tmp_path):
    torch.save({'model': state}, tmp_path / 'published.pth')
    model.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'published.pth'))
    model.init_weights()


@pytest.mark.parametrize('how', ['load_state_dict', 'mmengine', 'init_cfg'])
@pytest.mark.parametrize('layout', ['official', 'mmpretrain'])
def test_every_way_of_loading_takes_published_files(how, layout, classifier_state, tmp_path):
    theirs = classifier_state if layout == 'official' else to_mmpretrain(classifier_state)
    model = HorNet(ARCH, img_size=384)
    if how == 'load_state_dict':
        by_load_state_dict(model, theirs)
    elif how == 'mmengine':
        by_mmengine(model, theirs)
    else:
        by_init_cfg(model, theirs, tmp_path)
    want = HorNet(ARCH, img_size=384)
    mmfreq.load_weights(want, classifier_state)
    assert same(model, want.state_dict()) == set(want.state_dict())


def test_another_family_is_refused_by_name():
    resnet = {'layer1.0.conv1.weight': torch.ones(1), 'fc.weight': torch.ones(1)}
    for attempt in (mmfreq.load_weights, lambda m, s: m.load_state_dict(s, strict=False)):
        with pytest.raises(CheckpointError, match=r'not of the hornet family.*a ResNet'):
            attempt(mmfreq.build_backbone(ARCH), resnet)


def test_the_file_of_another_family_is_named(tmp_path):
    torch.save({'fc.weight': torch.ones(1)}, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=r'other\.pth: the checkpoint is not of the hornet family'):
        mmfreq.load_weights(mmfreq.build_backbone(ARCH), tmp_path / 'other.pth')


def test_another_size_of_the_family_is_refused_and_nothing_is_loaded(dense_state):
    model = mmfreq.build_backbone('hornet-tiny-gf')
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r'(?s)nothing was loaded.*of another shape: .*\(16, 3, 4, 4\), model \(64'):
        mmfreq.load_weights(model, dense_state)
    assert same(model, before) == set(before)


def test_missing_and_unknown_names_are_listed(dense_state):
    del dense_state['stages.2.1.pwconv2.bias']
    dense_state['stages.2.9.pwconv2.bias'] = torch.ones(64)
    with pytest.raises(CheckpointError) as error:
        mmfreq.load_weights(mmfreq.build_backbone(ARCH), dense_state)
    assert '1 in the file, unknown to the model: stages.2.9.pwconv2.bias' in str(error.value)
    assert '1 in the model, not in the file: stages.2.1.pwconv2.bias' in str(error.value)


def test_some_output_norms_missing_is_not_taken_for_a_classification_file(dense_state):
    del dense_state['norm2.weight']
    with pytest.raises(CheckpointError, match=r'norm2\.weight'):
        mmfreq.load_weights(mmfreq.build_backbone(ARCH), dense_state)


@pytest.mark.parametrize('content', [{}, {'epoch': 3}, {'model': {'epoch': 3}}])
def test_a_file_without_parameters_is_told(content):
    with pytest.raises(CheckpointError, match='no parameters'):
        mmfreq.load_weights(mmfreq.build_backbone(ARCH), content)


class Segmentor(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = HorNet(ARCH)
        self.decode_head = torch.nn.Conv2d(16, 5, 1)


def test_a_whole_model_takes_whole_files_and_bare_backbones(classifier_state, dense_state):
    model = Segmentor()
    whole = {'backbone.' + n: v for n, v in dense_state.items()}
    whole |= {'decode_head.weight': torch.ones(5, 16, 1, 1), 'decode_head.bias': torch.ones(5)}
    assert mmfreq.load_weights(model, whole).loaded == len(whole)
    assert same(model, whole) == set(whole)
    adapted = adapt_checkpoint(to_mmpretrain(classifier_state), model)
    assert set(adapted) == {n for n in model.state_dict() if n.startswith('backbone.')}
    with pytest.raises(CheckpointError, match=r'decode_head\.weight'):
        mmfreq.load_weights(model, classifier_state)


def test_own_checkpoints_of_a_wrapped_model_load(dense_state):
    model = Segmentor()
    state = model.state_dict()
    other = Segmentor()
    assert not other.load_state_dict(state).missing_keys
    assert same(other, state) == set(state)

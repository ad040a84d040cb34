"""Files in published layouts load into the models they belong to, and all others are refused."""

from itertools import permutations

import pytest
import torch
from mmengine.runner.checkpoint import _load_checkpoint_to_model

import mmfreq
from mmfreq.compat.safe_load import CheckpointError
from mmfreq.models.hornet import HorNet
from mmfreq.ops import resize_filter
from mmfreq.testing.golden import golden_state, read_golden
from mmfreq.weights.fit import fit_checkpoint
from mmfreq.weights.load import check_fit
from tests.weights.layouts import MICRO, classifier_state, cleared, dense_state, named, to_mmpretrain

ARCH = 'hornet-micro'


@pytest.fixture(name='classifier_state')
def classifier_state_of_micro():
    """An official classification file for the micro arch."""
    return classifier_state(ARCH, num_classes=1000)


@pytest.fixture(name='dense_state')
def dense_state_of_micro():
    return dense_state(ARCH)


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
    published = to_mmpretrain(classifier_state, prefix)
    model = mmfreq.build_backbone(ARCH)
    report = mmfreq.load_weights(model, {'state_dict': published})
    assert report.layout == ('mmpretrain classifier' if prefix else 'mmpretrain classifier without prefix')
    assert same(model, classifier_state) == {n for n in model.state_dict() if not n.startswith('norm')}
    assert (model.norm3.weight == 1).all(), "the classifier's norm must not become an output norm"
    classifier = mmfreq.build_classifier(ARCH)
    mmfreq.load_weights(classifier, {'state_dict': published})
    assert same(classifier, classifier_state) == set(classifier_state)


def test_mmpretrain_dense_file_keeps_its_output_norms(dense_state):
    model = mmfreq.build_backbone(ARCH)
    report = mmfreq.load_weights(model, to_mmpretrain(dense_state))
    assert report.layout == 'mmpretrain, whole model' and same(model, dense_state) == set(dense_state)


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
    published = classifier_state if layout == 'official' else to_mmpretrain(classifier_state)
    model = HorNet(ARCH, img_size=384)
    if how == 'load_state_dict':
        by_load_state_dict(model, published)
    elif how == 'mmengine':
        by_mmengine(model, published)
    else:
        by_init_cfg(model, published, tmp_path)
    want = HorNet(ARCH, img_size=384)
    mmfreq.load_weights(want, classifier_state)
    assert same(model, want.state_dict()) == set(want.state_dict())


def test_another_family_is_refused_by_name():
    resnet = {'layer1.0.conv1.weight': torch.ones(1), 'fc.weight': torch.ones(1)}
    for attempt in (mmfreq.load_weights, lambda m, s: m.load_state_dict(s, strict=False)):
        with pytest.raises(CheckpointError, match=r'hornet family.*a ResNet'):
            attempt(mmfreq.build_backbone(ARCH), resnet)


def test_the_error_names_the_file(tmp_path):
    torch.save({'fc.weight': torch.ones(1)}, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=r'other\.pth.*hornet family'):
        mmfreq.load_weights(mmfreq.build_backbone(ARCH), tmp_path / 'other.pth')


def test_another_size_of_the_family_is_refused_and_nothing_is_loaded(dense_state):
    model = mmfreq.build_backbone('hornet-tiny-gf')
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r'(?s)\(16, 3, 4, 4\).*\(64, 3, 4, 4\)'):
        mmfreq.load_weights(model, dense_state)
    assert same(model, before) == set(before)


def test_missing_and_unknown_names_are_listed(dense_state):
    del dense_state['stages.2.1.pwconv2.bias']
    dense_state['stages.2.9.pwconv2.bias'] = torch.ones(64)
    with pytest.raises(CheckpointError) as error:
        mmfreq.load_weights(mmfreq.build_backbone(ARCH), dense_state)
    unknown, missing = (str(error.value).index(f'stages.2.{block}.pwconv2.bias') for block in (9, 1))
    assert unknown < missing and 'unknown' in str(error.value)[:unknown]


def test_a_file_with_some_output_norms_must_have_all(dense_state):
    del dense_state['norm2.weight']
    with pytest.raises(CheckpointError, match=r'norm2\.weight'):
        mmfreq.load_weights(mmfreq.build_backbone(ARCH), dense_state)


@pytest.mark.parametrize('content', [{}, {'epoch': 3}, {'model': {'epoch': 3}}])
def test_a_file_without_parameters_is_refused(content):
    with pytest.raises(CheckpointError, match='no parameters'):
        mmfreq.load_weights(mmfreq.build_backbone(ARCH), content)


class Segmentor(torch.nn.Module):
    def __init__(self, arch=ARCH, decode_head=None):
        super().__init__()
        self.backbone = mmfreq.build_backbone(arch)
        self.decode_head = decode_head or torch.nn.Conv2d(16, 5, 1)


def test_a_whole_model_takes_whole_files_and_bare_backbones(classifier_state, dense_state):
    model = Segmentor()
    whole = {'backbone.' + n: v for n, v in dense_state.items()}
    whole |= {'decode_head.weight': torch.ones(5, 16, 1, 1), 'decode_head.bias': torch.ones(5)}
    assert mmfreq.load_weights(model, whole).loaded == len(whole)
    assert same(model, whole) == set(whole)
    fitted = fit_checkpoint(to_mmpretrain(classifier_state), model)
    assert set(fitted.state) == {n for n in model.state_dict() if n.startswith('backbone.')}
    with pytest.raises(CheckpointError, match=r'decode_head\.weight'):
        mmfreq.load_weights(model, classifier_state)


def test_load_state_dict_of_a_whole_model(dense_state):
    model = Segmentor()
    state = model.state_dict()
    other = Segmentor()
    assert not other.load_state_dict(state).missing_keys
    assert same(other, state) == set(state)


PARTS_DROPPED = {'norm', 'head', 'conv_1x1_exp', 'classifier'}


@pytest.mark.parametrize('family', MICRO)
def test_a_classification_file_of_every_family_fills_classifier_and_backbone(family):
    state = classifier_state(MICRO[family])
    classifier, backbone = mmfreq.build_classifier(MICRO[family], num_classes=7), mmfreq.build_backbone(MICRO[family])
    for name, wrap in WRAPPINGS.items():
        assert mmfreq.load_weights(cleared(classifier), wrap(state)).loaded == len(state), name
        assert same(classifier, state) == set(state), name
        report = mmfreq.load_weights(cleared(backbone), wrap(state))
        assert {part.split('.')[0] for part in report.dropped} <= PARTS_DROPPED and report.dropped, name
        assert same(backbone, state) == set(backbone.state_dict()) - set(report.fresh), name


@pytest.mark.parametrize('family', MICRO)
def test_a_segmentor_file_of_every_family_fills_backbone_and_segmentor(family):
    state = dense_state(MICRO[family])
    whole = {'backbone.' + n: v for n, v in state.items()} | {'decode_head.weight': torch.ones(5, 16, 1, 1)}
    whole['decode_head.bias'] = torch.ones(5)
    backbone = mmfreq.build_backbone(MICRO[family])
    report = mmfreq.load_weights(backbone, {'state_dict': whole, 'meta': {}})
    assert same(backbone, state) == set(state) and set(report.dropped) == {'decode_head.weight', 'decode_head.bias'}
    model = Segmentor(MICRO[family])
    assert mmfreq.load_weights(model, whole).loaded == len(whole)
    assert same(model, whole) == set(whole)


@pytest.mark.parametrize(('network', 'other'), [pair for pair in permutations(MICRO, 2) if {*pair} != {'dfformer', 'cdfformer'}])
def test_the_file_of_another_network_is_refused(network, other):
    model = mmfreq.build_backbone(MICRO[network])
    before = {n: v.clone() for n, v in model.state_dict().items()}
    sign = {'hornet': 'HorNet', 'gfnet': r'GFNet \(isotropic', 'gfnet-h': r'GFNet-H \(pyramid', 'affnet': 'AFFNet'}.get(
        other, 'DFFormer'
    )
    for load in (mmfreq.load_weights, lambda m, s: m.load_state_dict(s, strict=False)):
        with pytest.raises(CheckpointError, match=f'{model.family} family.*look like {sign}'):
            load(model, dense_state(MICRO[other]))
        assert same(model, before) == set(before)


def test_cdfformer_weights_in_dfformer_are_refused_by_their_parameters():
    with pytest.raises(CheckpointError, match=r'token_mixer\.dwconv\.weight'):
        mmfreq.load_weights(mmfreq.build_backbone('dfformer-micro'), dense_state('cdfformer-micro'))


@pytest.mark.parametrize(
    ('sign', 'name'), [('stages.0.0.dwconv.weight', 'ConvNeXt'), ('layer_3.1.local_rep.conv.weight', 'MobileViT')]
)
def test_an_unsupported_network_with_common_names_is_refused(sign, name, dense_state):
    arch = ARCH if name == 'ConvNeXt' else 'affnet-micro'
    state = named([n for n in mmfreq.build_backbone(arch).state_dict() if 'gnconv' not in n]) | {sign: torch.ones(1)}
    with pytest.raises(CheckpointError, match=f'look like {name}'):
        mmfreq.load_weights(mmfreq.build_backbone(arch), state)


CVNETS = {'DeepLabv3': 'affnet__affnet_et_deeplabv3', 'SSDLite': 'affnet__affnet_et_ssdlite'}


@pytest.mark.parametrize('network', CVNETS)
def test_the_encoder_of_a_cvnets_network_fills_the_backbone(network, golden_folder):
    state = golden_state(read_golden(golden_folder, CVNETS[network])['state_dict'])
    encoder = {name.removeprefix('encoder.'): value for name, value in state.items() if name.startswith('encoder.')}
    model = mmfreq.build_backbone('affnet-et')
    report = mmfreq.load_weights(model, state)
    assert report.layout == f'CVNets {network}' and report.loaded == len(encoder) == len(model.state_dict())
    assert same(model, encoder) == set(encoder)
    assert set(report.dropped) == {name for name in state if not name.startswith('encoder.')}


def test_a_cvnets_deeplabv3_fills_a_segmentor_of_mmseg(golden_folder):
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    state = golden_state(read_golden(golden_folder, CVNETS['DeepLabv3'])['state_dict'])
    head = dict(type='ASPPHead', in_channels=144, channels=256, num_classes=150, dilations=(1, 6, 12, 18), norm_cfg=dict(type='BN'))
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = Segmentor('affnet-et', MODELS.build(head))
    model.decode_head.bottleneck.conv = torch.nn.Conv2d(5 * 256, 256, 1, bias=False)  # mmseg's is 3x3
    report = mmfreq.load_weights(model, state)
    assert report.loaded == len(state) and len(report.renamed) == len(state) and not report.fresh and not report.dropped
    own = model.state_dict()
    aspp = 'seg_head.aspp.aspp_layer.'
    for published, name in (
        (f'{aspp}convs.0.block.conv.weight', 'aspp_modules.0.conv.weight'),
        (f'{aspp}convs.3.block.norm.running_var', 'aspp_modules.3.bn.running_var'),
        (f'{aspp}convs.4.aspp_pool.conv_1x1.block.norm.bias', 'image_pool.1.bn.bias'),
        (f'{aspp}project.block.conv.weight', 'bottleneck.conv.weight'),
        ('seg_head.classifier.block.conv.bias', 'conv_seg.bias'),
    ):
        assert torch.equal(own['decode_head.' + name], state[published])
    assert torch.equal(own['backbone.layer_5.1.fusion.block.conv.weight'], state['encoder.layer_5.1.fusion.block.conv.weight'])


ENTRIES = {
    'timm': ({'epoch': 3, 'state_dict': 'raw', 'state_dict_ema': 'ema'}, 'state_dict_ema', 'ema'),
    'DeiT style': ({'model': 'raw', 'model_ema': 'ema', 'optimizer': {}}, 'model_ema', 'ema'),
    'DeiT style without averages': ({'model': 'raw', 'model_ema': None}, 'model', 'raw'),
    'CVNets': ({'model_state_dict': 'raw', 'ema_state_dict': 'ema', 'iterations': 1}, 'ema_state_dict', 'ema'),
    'CVNets without averages': ({'model_state_dict': 'raw', 'ema_state_dict': {}}, 'model_state_dict', 'raw'),
    'mmengine by meta': ({'meta': {}, 'state_dict': 'ema', 'ema_state_dict': 'raw'}, 'state_dict', 'ema'),
    'mmengine by message_hub': ({'message_hub': {}, 'state_dict': 'ema', 'ema_state_dict': 'raw'}, 'state_dict', 'ema'),
}


@pytest.mark.parametrize('script', ENTRIES)
def test_averaged_weights_are_preferred(script, dense_state):
    layout, entry, want = ENTRIES[script]
    states = {'ema': dense_state, 'raw': {n: v + 1 for n, v in dense_state.items()}}
    content = {key: states.get(value, value) if isinstance(value, str) else value for key, value in layout.items()}
    model = mmfreq.build_backbone(ARCH)
    report = mmfreq.load_weights(model, content)
    assert report.entry == entry and entry in str(report)
    assert same(model, states[want]) == set(dense_state)
    cleared(model).load_state_dict(content)
    assert same(model, states[want]) == set(dense_state)


def test_entry_argument(dense_state):
    raw = {n: v + 1 for n, v in dense_state.items()}
    model = mmfreq.build_backbone(ARCH)
    assert mmfreq.load_weights(model, {'model': raw, 'model_ema': dense_state}, entry='model').entry == 'model'
    assert same(model, raw) == set(raw)
    by_mmengine = {'meta': {}, 'state_dict': dense_state, 'ema_state_dict': {'steps': torch.tensor(5)}}
    by_mmengine['ema_state_dict'] |= {'module.' + n: v for n, v in raw.items()}
    mmfreq.load_weights(model, by_mmengine)
    assert same(model, dense_state) == set(dense_state)
    mmfreq.load_weights(model, by_mmengine, entry='ema_state_dict')
    assert same(model, raw) == set(raw)
    with pytest.raises(CheckpointError, match=r"'ema'.*model_ema, model"):
        mmfreq.load_weights(model, {'model': raw, 'model_ema': dense_state}, entry='ema')
    with pytest.raises(CheckpointError, match=r"'model'.*bare"):
        mmfreq.load_weights(model, raw, entry='model')


LAST_LAYER = {
    'hornet': 'head.',
    'gfnet': 'head.',
    'gfnet-h': 'head.',
    'dfformer': 'head.fc2.',
    'cdfformer': 'head.fc2.',
    'affnet': 'classifier.fc.',
}


@pytest.mark.parametrize('family', MICRO)
def test_fresh_keeps_the_initial_last_layer(family):
    state, last = classifier_state(MICRO[family], num_classes=7), LAST_LAYER[family]
    model = mmfreq.build_classifier(MICRO[family], num_classes=3)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        mmfreq.load_weights(model, state)
    assert f"fresh=('{last}',)" in str(error.value)
    assert same(model, before) == set(before)
    report = mmfreq.load_weights(model, state, fresh=(last,))
    head = {last + 'weight', last + 'bias'}
    assert same(model, state) == set(state) - head
    assert same(model, before) >= head
    assert set(report.dropped) == set(report.fresh) == head and report.loaded == len(state) - 2
    assert str(report).count('as requested') == 1


def test_fresh_takes_names_of_the_mmfreq_layout_and_of_whole_models(classifier_state, dense_state):
    model = mmfreq.build_classifier(ARCH, num_classes=3)
    report = mmfreq.load_weights(model, to_mmpretrain(classifier_state), fresh=('head.',))
    assert set(report.dropped) == {'head.fc.weight', 'head.fc.bias'} and 'head.fc.bias' not in report.renamed
    whole = {'backbone.' + n: v for n, v in dense_state.items()} | {'decode_head.weight': torch.ones(9, 16, 1, 1)}
    whole |= {'decode_head.bias': torch.ones(9), 'auxiliary_head.weight': torch.ones(3)}
    segmentor = Segmentor()
    with pytest.raises(CheckpointError, match=r'auxiliary_head\.weight'):
        mmfreq.load_weights(segmentor, whole)
    report = mmfreq.load_weights(segmentor, whole, fresh=('decode_head.', 'auxiliary_head.'))
    assert set(report.fresh) == {'decode_head.weight', 'decode_head.bias'}
    assert set(report.dropped) == {*report.fresh, 'auxiliary_head.weight'}
    mmfreq.load_weights(segmentor, {n: v for n, v in whole.items() if n.startswith('backbone.')}, fresh=('decode_head.',))


def test_fresh_with_an_unknown_prefix_is_refused(classifier_state):
    model = mmfreq.build_classifier(ARCH)
    with pytest.raises(CheckpointError, match=r"'haed\.'"):
        mmfreq.load_weights(model, classifier_state, fresh=('haed.',))
    with pytest.raises(ValueError, match=r"\('head\.',\)"):
        mmfreq.load_weights(model, classifier_state, fresh='head.')


def test_fresh_is_not_suggested_for_a_wrong_arch(classifier_state):
    with torch.device('meta'):
        larger = mmfreq.build_classifier('hornet-tiny-gf', num_classes=3)
    with pytest.raises(CheckpointError) as error:
        mmfreq.load_weights(larger, classifier_state)
    assert 'fresh' not in str(error.value)


def test_check_fit_reports_the_same_and_loads_nothing(classifier_state):
    with torch.device('meta'):
        shape_only = mmfreq.build_classifier(ARCH, img_size=384)
    model = mmfreq.build_classifier(ARCH, img_size=384)
    assert check_fit(shape_only, classifier_state) == mmfreq.load_weights(model, classifier_state)
    assert shape_only.head.weight.is_meta
    with pytest.raises(CheckpointError, match='shape'):
        check_fit(mmfreq.build_classifier(ARCH, num_classes=3), classifier_state)


def with_value(model, change):
    """The state dict of a model with one weight changed, and its name."""
    name = next(name for name in model.state_dict() if name.endswith('weight'))
    return {**model.state_dict(), name: change(model.state_dict()[name].clone())}, name


NOT_FINITE = {'NaN': float('nan'), 'infinity': float('inf'), 'minus infinity': -float('inf')}


@pytest.mark.parametrize('value', NOT_FINITE)
def test_nan_and_infinite_values_are_reported(value):
    model = mmfreq.build_backbone('hornet-micro')
    state, name = with_value(model, lambda weight: weight.index_fill_(0, torch.tensor([1]), NOT_FINITE[value]))
    with pytest.warns(UserWarning, match=f'NaN.*{name}'):
        report = mmfreq.load_weights(model, state)
    assert report.not_finite == {name: state[name][1].numel()}
    assert 'WARNING: ' in str(report) and name in str(report)
    clean = mmfreq.load_weights(model, mmfreq.build_backbone('hornet-micro').state_dict())
    assert clean.not_finite == {} == clean.converted and 'WARNING' not in str(clean)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype_is_converted_and_reported(dtype):
    model = mmfreq.build_backbone('hornet-micro', img_size=256)  # filters are resized, too
    state = mmfreq.build_backbone('hornet-micro').to(dtype).state_dict()
    report = mmfreq.load_weights(model, state)
    assert set(report.converted) == set(state)
    assert f'{len(state)} tensors' in str(report) and str(dtype).removeprefix('torch.') in str(report)
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    assert report.resized


INCOMPATIBLE = {
    'integers': (lambda weight: weight.long(), 'int64, expected float32'),
    '8 bits': (lambda weight: weight.to(torch.int8), 'int8, expected float32'),
    'booleans': (lambda weight: weight > 0, 'bool, expected float32'),
    'complex numbers': (lambda weight: weight.to(torch.complex64), 'complex64, expected float32'),
    'sparse': (lambda weight: weight.to_sparse(), 'sparse float32'),
    'without values': (lambda weight: weight.to('meta'), 'without its values'),
    'quantized': (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), 'qint8'),
    'transposed': (lambda weight: weight.reshape(weight.shape[::-1]), 'of another shape'),
    'a scalar': (lambda weight: weight.sum(), 'of another shape'),
    'empty': (lambda weight: weight[:0], 'of another shape'),
}
NO_TENSORS = {
    'no dict': lambda state: list(state.values()),
    'a tensor': lambda state: next(iter(state.values())),
    'None': lambda state: None,
    'an empty dict': lambda state: {},
    'lists': lambda state: {name: value.flatten()[:3].tolist() for name, value in state.items()},
    'text': lambda state: dict.fromkeys(state, 'weights'),
    'an entry that is text': lambda state: {'state_dict': 'none'},
    'numbers for names': lambda state: dict(enumerate(state.values())),
    'None for a name': lambda state: {None: torch.ones(1), **state},
    'itself': lambda state: nested_in_itself(),
    'entries within entries': lambda state: {'model': {'model': {'model': {'model': {'model': {'model': state}}}}}},
}


def nested_in_itself():
    content = {}
    content['state_dict'] = content
    return content


@pytest.mark.parametrize('case', INCOMPATIBLE)
def test_tensors_of_an_incompatible_type_or_shape_are_refused(case, tmp_path):
    change, message = INCOMPATIBLE[case]
    model = mmfreq.build_backbone('hornet-micro')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    filters = next(name for name in before if name.endswith('complex_weight'))
    for name in (next(iter(before)), filters):
        state = {**before, name: change(before[name].clone())}
        with pytest.raises(CheckpointError, match=f'(?s){message}') as caught:
            mmfreq.load_weights(model, state)
        assert name in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('case', NO_TENSORS)
def test_content_without_weights_is_refused(case, tmp_path):
    model = mmfreq.build_backbone('hornet-micro')
    torch.save(NO_TENSORS[case](model.state_dict()), tmp_path / 'odd.pth')
    with pytest.raises(CheckpointError, match=r'(?s)odd\.pth: .*(no parameters|must be text)'):
        mmfreq.load_weights(model, tmp_path / 'odd.pth')

"""Conversion to the mmfreq layout and back is the identity, and unknown names are refused."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from mmengine.runner.checkpoint import _load_checkpoint_to_model

import mmfreq
from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.models._factory import list_archs
from mmfreq.testing.golden import read_golden
from mmfreq.weights import rules
from mmfreq.weights.convert import fitting_archs, to_mmfreq, to_published
from tests.weights.layouts import (
    GOLDEN,
    MICRO,
    OFFICIAL,
    classifier_state,
    cleared,
    dense_state,
    every_layout,
    named,
    official,
    to_mmpretrain,
)

LAYOUTS = every_layout()
WRAPPINGS = {
    'bare': lambda s: s,
    'model': lambda s: {'model': s},
    'state_dict': lambda s: {'state_dict': s},
    'model_state_dict': lambda s: {'model_state_dict': s},
    'nested': lambda s: {'model': {'state_dict': s}},
    'module': lambda s: {'model': {'module.' + n: v for n, v in s.items()}},
    'bare module': lambda s: {'module.' + n: v for n, v in s.items()},
    'averaged': lambda s: {'model_ema': s},
}


def assert_same(got, want):
    """Equal nesting, names and tensors."""
    assert set(got) == set(want)
    for name, value in want.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(got[name], value), name
        else:
            assert_same(got[name], value)


@pytest.mark.parametrize('case', LAYOUTS)
def test_round_trip_is_the_identity(case):
    family, state = LAYOUTS[case]
    converted = to_mmfreq({'model': state}).checkpoint
    assert converted['meta']['mmfreq']['family'] == family
    assert len(converted['state_dict']) == len(state)
    assert_same(to_published(converted).checkpoint, {'model': state})


@pytest.mark.parametrize('wrap', WRAPPINGS.values(), ids=WRAPPINGS)
@pytest.mark.parametrize('case', ['mmpretrain classifier', 'gfnet__gfnet-ti', 'affnet__affnet_et_deeplabv3'])
def test_wrapper_and_module_prefix_are_restored(case, wrap):
    source = wrap(LAYOUTS[case][1])
    assert_same(to_published(to_mmfreq(source).checkpoint).checkpoint, source)


OFFICIAL_WRAPPER = {'hornet': 'model', 'gfnet': 'model', 'dfformer': '', 'affnet': ''}


@pytest.mark.parametrize('case', [name for name in LAYOUTS if 'mmpretrain' not in name])
def test_without_the_note_a_file_is_converted_to_the_authors_layout(case):
    family, state = LAYOUTS[case]
    converted = to_mmfreq(state).checkpoint['state_dict']
    wrapper = 'state_dict' if any(name.startswith('backbone.') for name in state) else OFFICIAL_WRAPPER[family]
    for content in (converted, {'state_dict': converted}, {'meta': {}, 'state_dict': converted, 'optimizer': {}}):
        assert_same(to_published(content).checkpoint, {wrapper: state} if wrapper else state)


def test_without_the_note_a_classifier_of_mmpretrain_becomes_official():
    state = official('hornet__hornet_tiny_7x7_logits')
    converted = to_mmfreq(to_mmpretrain(state)).checkpoint
    del converted['meta']
    assert_same(to_published(converted).checkpoint, {'model': state})


def rename_rows():
    for family, known in rules.RULES.items():
        for index, layout in enumerate(known.layouts):
            for row in layout.rename:
                yield pytest.param(family, index, row, id=f'{family}, {layout.name}, {row[0]}')


@cache
def converted_names(family, index):
    """The state dicts in a layout of a family, each with its names after conversion."""
    known = rules.RULES[family]
    layout = known.layouts[index]
    if layout.name == 'CVNets encoder':
        states = [{name: value for name, value in official('affnet__affnet_et_deeplabv3').items() if name.startswith('encoder.')}]
    else:
        states = [state for other, state in LAYOUTS.values() if other == family and known.layout_of(state) is layout]
    return [(state, set(to_mmfreq(state).checkpoint['state_dict'])) for state in states]


@pytest.mark.parametrize(('family', 'index', 'row'), rename_rows())
def test_every_rename_row_is_needed(family, index, row, monkeypatch):
    """Without the row, some published checkpoint is refused or gets other names."""
    known = rules.RULES[family]
    layout = known.layouts[index]
    cases = converted_names(family, index)
    assert cases, f'no checkpoint in the {layout.name} layout'
    broken = replace(layout, rename=tuple(other for other in layout.rename if other != row))
    layouts = (*known.layouts[:index], broken, *known.layouts[index + 1 :])
    monkeypatch.setitem(rules.RULES, family, replace(known, layouts=layouts))

    def noticed(state, names):
        try:
            return set(to_mmfreq(state).checkpoint['state_dict']) != names
        except CheckpointError:
            return True

    assert any(noticed(*case) for case in cases)


# one arch for each set of names; other depths and widths have the same names with other numbers
QUICK = (
    *('hornet-micro', 'hornet-tiny-7x7', 'gfnet-micro', 'gfnet-h-micro', 'gfnet-cnn-micro', 'dfformer-micro', 'cdfformer-micro'),
    *('gfformer-s18', 'dfformer-s18-relu', 'dfformer-s18-afno', 'affnet-micro'),
)


@cache
def meta_backbone(arch):
    with torch.device('meta'):
        return mmfreq.build_backbone(arch)


@pytest.mark.parametrize('arch', [pytest.param(arch, marks=[pytest.mark.slow] * (arch not in QUICK)) for arch in list_archs()])
def test_every_parameter_name_is_known(arch):
    with torch.device('meta'):
        classifier = mmfreq.build_classifier(arch)
    family = classifier.family
    for model in (meta_backbone(arch), classifier):
        names = list(model.state_dict())
        assert rules.RULES[family].unknown(names) == []
        assert rules.RULES[family].unknown(['backbone.' + name for name in names] + ['decode_head.x']) == []
    other = 'affnet' if family != 'affnet' else 'hornet'
    assert len(rules.RULES[other].unknown(names)) > len(names) // 2


@pytest.mark.parametrize('case', LAYOUTS)
def test_unknown_names_are_listed(case):
    state = dict(LAYOUTS[case][1])
    first = next(iter(state)).rpartition('.')[0]
    state |= {'surprise.weight': torch.ones(1), f'{first}.surprise': torch.ones(1)}
    with pytest.raises(CheckpointError, match=r'\b2 name') as error:
        to_mmfreq(state)
    assert 'surprise.weight' in str(error.value) and f'{first}.surprise' in str(error.value)
    assert '\n' not in str(error.value)


def test_two_names_for_one_parameter_are_refused():
    state = to_mmpretrain(official('hornet__hornet_tiny_7x7_logits'))
    state['backbone.norm.weight'] = torch.ones(1)
    with pytest.raises(CheckpointError, match=r'backbone\.norm\.weight, backbone\.norm3\.weight'):
        to_mmfreq(state)


def test_unknown_and_ambiguous_families_are_refused():
    with pytest.raises(CheckpointError, match=r'layout.*a ResNet'):
        to_mmfreq({'layer1.0.conv1.weight': torch.ones(1)})
    both = official('dfformer__dfformer_s18') | official('affnet__affnet_et')
    with pytest.raises(CheckpointError, match='dfformer, affnet'):
        to_mmfreq(both)
    with pytest.raises(CheckpointError, match='layout'):
        to_published({'layer1.0.conv1.weight': torch.ones(1)})


def test_note_and_report_of_a_conversion():
    state = official('affnet__affnet_et')
    content = {'model_state_dict': named(state), 'ema_state_dict': state, 'optim_state_dict': {}, 'epoch': 3}
    done = to_mmfreq(content, arch='affnet-et')
    note = dict(version=1, family='affnet', layout='official', path=['ema_state_dict'], module=False, arch='affnet-et')
    assert done.checkpoint['meta'] == {'mmfreq': note}
    assert set(done.dropped) == {'model_state_dict', 'optim_state_dict', 'epoch'}
    assert done.checkpoint['state_dict'].keys() == state.keys() and done.renamed == {}
    assert_same(to_published(done.checkpoint).checkpoint, {'ema_state_dict': state})
    assert to_published(done.checkpoint | {'optimizer': {}}).dropped == ('optimizer',)
    with pytest.raises(CheckpointError, match='already'):
        to_mmfreq(done.checkpoint)


def test_class_names_of_a_segmentor_are_kept():
    state = LAYOUTS['segmentor with HorFPN'][1]
    meta = {'CLASSES': ['wall', 'sky'], 'PALETTE': [[0, 0, 0], [1, 1, 1]], 'config': 'text'}
    converted = to_mmfreq({'state_dict': state, 'meta': meta}).checkpoint
    assert converted['meta'].keys() == {'mmfreq', 'CLASSES', 'PALETTE'}
    back = to_published(converted).checkpoint
    assert back['meta'] == {key: meta[key] for key in ('CLASSES', 'PALETTE')}


@pytest.mark.parametrize(
    ('change', 'message'),
    [({'version': 2}, r'version.*\b1\b.*\b2\b'), ({'layout': 'x'}, "layout.*'x'"), ({'family': 'x'}, "'x'")],
)
def test_an_unknown_note_is_refused(change, message):
    converted = to_mmfreq(official('gfnet__gfnet-ti')).checkpoint
    converted['meta']['mmfreq'].update(change)
    with pytest.raises(CheckpointError, match=message):
        to_published(converted)


def test_a_note_that_contradicts_the_names_is_refused():
    converted = to_mmfreq(official('gfnet__gfnet-ti')).checkpoint
    converted['state_dict'] = official('gfnet__gfnet-h-ti')
    with pytest.raises(CheckpointError, match='official isotropic'):
        to_published(converted)


@pytest.mark.parametrize('family', MICRO)
def test_a_converted_file_loads_in_every_way(family, tmp_path):
    arch = MICRO[family]
    state = dense_state(arch)
    whole = {'state_dict': {'backbone.' + n: v for n, v in state.items()} | named(['decode_head.x'])}
    by_load, by_init, by_mmengine = models = [mmfreq.build_backbone(arch) for _ in range(3)]
    for source in ({'model': state}, whole):
        torch.save(to_mmfreq(source, arch).checkpoint, tmp_path / 'converted.pth')
        for model in models:
            cleared(model)
        mmfreq.load_weights(by_load, tmp_path / 'converted.pth')
        by_init.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'converted.pth'))
        by_init.is_init = False
        by_init.init_weights()
        _load_checkpoint_to_model(by_mmengine, read_checkpoint(tmp_path / 'converted.pth'), strict=True)
        for model in models:
            assert_same(model.state_dict(), state)


def builders(family):
    return {arch: lambda arch=arch: meta_backbone(arch) for arch in list_archs(family)}


ARCH_OF = {
    'gfnet__gfnet-ti': 'gfnet-ti',
    'hornet__hornet_tiny_gf': 'hornet-tiny-gf',
    'dfformer__cdfformer_s18_seg': 'cdfformer-s18',  # its filters are stored at 512
    'affnet__affnet_et_deeplabv3': 'affnet-et',
}


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCH_OF)
def test_the_arch_is_found_by_shapes(name):
    shapes = read_golden(GOLDEN, name)['state_dict']
    assert fitting_archs(flat(shapes), builders(OFFICIAL[name])) == [ARCH_OF[name]]


@pytest.mark.slow
def test_the_arch_is_found_with_filters_of_another_grid_and_ambiguous_archs_are_listed():
    with torch.device('meta'):
        at_384 = mmfreq.build_backbone('hornet-tiny-gf', img_size=384).state_dict()
        base = mmfreq.build_backbone('hornet-base-gf').state_dict()
        relu = mmfreq.build_classifier('dfformer-s18-relu').state_dict()
    at_384, base, relu = (flat({name: value.shape for name, value in state.items()}) for state in (at_384, base, relu))
    assert fitting_archs(at_384, builders('hornet')) == ['hornet-tiny-gf']
    assert fitting_archs(base, builders('hornet')) == ['hornet-base-gf']
    assert fitting_archs(relu, builders('dfformer')) == ['dfformer-s18-gelu', 'dfformer-s18-relu']
    assert fitting_archs(classifier_state('gfnet-micro'), builders('affnet')) == []


def flat(shapes):
    """Tensors of these shapes that take no memory."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def test_a_mix_of_layouts_is_refused():
    state = to_mmpretrain(official('hornet__hornet_tiny_7x7_logits'))
    state['backbone.stages.9.9.gnconv.pws.0.weight'] = torch.ones(1)
    with pytest.raises(CheckpointError, match=r'backbone\.stages\.9\.9\.gnconv\.pws\.0\.weight'):
        to_mmfreq(state)

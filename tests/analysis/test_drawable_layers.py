"""Which layers are taken, and what is said where there is none."""

import pytest
import torch
from torch import nn

import mmfreq
from mmfreq.analysis.learned_filters import KINDS, choose_layers, matches, spread, spread_over_groups


@pytest.fixture(scope='module')
def hornet():
    with torch.device('meta'):
        return mmfreq.build_classifier('hornet-tiny-gf')


@pytest.mark.parametrize(
    ('arch', 'kinds'),
    [
        ('hornet-tiny-7x7', {'gating'}),
        ('hornet-micro', {'filters', 'gating'}),
        ('gfnet-h-micro', {'filters'}),
        ('dfformer-micro', {'filters', 'routing'}),
        ('affnet-micro', {'masks'}),
    ],
)
def test_each_family_has_its_kinds(arch, kinds):
    with torch.device('meta'):
        assert set(choose_layers(mmfreq.build_backbone(arch))) == kinds


def test_by_default_a_few_of_every_stage(hornet):
    found = choose_layers(hornet)
    assert list(found['gating'].layers) == [f'stages.{i}.{k}.gnconv' for i, k in enumerate((1, 2, 17, 1))]
    assert found['gating'].of == 25 and found['filters'].of == 20
    assert list(found['filters'].layers) == [f'stages.{i}.{k}.gnconv.dwconv' for i, k in ((2, 0), (2, 17), (3, 0), (3, 1))]
    assert all(isinstance(layer, KINDS['gating'][0]) for layer in found['gating'].layers.values())


def test_a_pattern_and_a_kind_narrow_it_down(hornet):
    assert list(choose_layers(hornet, pattern='stages.3.1')) == ['filters', 'gating']
    assert list(choose_layers(hornet, ['gating'], 'stages.3.1')['gating'].layers) == ['stages.3.1.gnconv']
    assert len(choose_layers(hornet, ['filters'], 'stages.2', most=30)['filters'].layers) == 18
    assert list(choose_layers(hornet, pattern='stages.0')) == ['gating']  # its filters are 7x7 convolutions


@pytest.mark.parametrize(
    ('pattern', 'matched'),
    [('*', True), ('a.b.0', True), ('a.b', True), ('b.0', True), ('b', True), ('a.?', True), ('b.1', False), ('a.b.', False)],
)
def test_patterns_stand_for_whole_parts(pattern, matched):
    assert matches('a.b.0', pattern) == matched


def test_mistakes_are_answered_with_what_there_is(hornet):
    with pytest.raises(ValueError, match=r"'stages\.9'.* stages\.2\.0\.gnconv\.dwconv, .* 33 "):
        choose_layers(hornet, pattern='stages.9')
    with pytest.raises(ValueError, match=r'HorNetClassifier .*masks .*AFFNet.* filters, gating'):
        choose_layers(hornet, ['filters', 'masks'])
    with pytest.raises(ValueError, match=r'phases.* filters, gating, routing, masks'):
        choose_layers(hornet, ['phases'])
    with pytest.raises(ValueError, match='Linear'):
        choose_layers(nn.Linear(1, 1))
    with pytest.raises(ValueError, match='at least 1'):
        choose_layers(hornet, most=0)


def test_spreading():
    assert spread('abcdefg', 3) == ['a', 'd', 'g'] and spread('ab', 5) == ['a', 'b']
    assert spread('abc', 1) == ['c'] and spread('a', 3) == ['a']
    names = [f's.{i}.{k}' for i in range(3) for k in range(4)]
    assert spread_over_groups(names, 2) == ['s.0.3', 's.2.3']
    assert spread_over_groups(names, 6) == ['s.0.0', 's.0.3', 's.1.0', 's.1.3', 's.2.0', 's.2.3']
    assert spread_over_groups(names, 99) == names

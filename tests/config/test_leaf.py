"""A leaf with the changes, on top of the old config, is the new config."""

import pytest
from mmengine.config import Config

from mmfreq.config.leaf import WIDTH, changes, difference_lines, leaf_text, plain

OLD = {
    'kept': 1,
    'model': {
        'backbone': {'type': 'ResNet', 'depth': 50, 'norm_cfg': {'type': 'BN', 'eps': 1e-5}},
        'neck': {'type': 'FPN', 'in_channels': [256, 512], 'start_level': 1},
        'heads': [{'type': 'A', 'in_channels': 3}, {'type': 'B', 'in_channels': 4}],
        'pretrained': None,
    },
}


def changed(**model):
    return {**OLD, 'model': {**OLD['model'], **model}}


CASES = {
    'a value': changed(neck={'type': 'FPN', 'in_channels': [16, 32], 'start_level': 1}),
    'another type': changed(backbone={'type': 'mmfreq.HorNet', 'out_indices': (0,), 'rate': 0.0}),
    'a key less': changed(neck={'type': 'FPN', 'in_channels': [256, 512]}),
    'a key more': changed(backbone={**OLD['model']['backbone'], 'init_cfg': {'type': 'Pretrained', 'checkpoint': "it's.pth"}}),
    'a deep key less': changed(backbone={**OLD['model']['backbone'], 'norm_cfg': {'type': 'BN'}}),
    'dict to None': changed(neck=None),
    'None to dict': changed(pretrained={'a': 1}),
    'dict to list': changed(neck=[{'type': 'A'}, OLD['model']['neck']]),
    'in a list': changed(heads=[{'type': 'A', 'in_channels': 9}, {'type': 'B', 'in_channels': 4}]),
    'a tuple of one, keywords and infinity': changed(new={'class': 1, 'a b': (2,), 'high': float('inf'), 'low': float('-inf')}),
    'empty ones': changed(new={'a': {}, 'b': [], 'c': ()}),
    'a new name': {**OLD, 'load_from': None, 'long': {'names': [f'name {i}' for i in range(40)], 'deep': [{'a': 'x' * 100}] * 2}},
    'nothing': OLD,
}


@pytest.mark.parametrize('new', CASES.values(), ids=CASES)
def test_the_leaf_turns_the_old_config_into_the_new_one(tmp_path, new):
    (tmp_path / 'old.py').write_text(leaf_text([], OLD))
    text = leaf_text('old.py', changes(OLD, new), ['one', 'two'])
    (tmp_path / 'new.py').write_text(text)
    assert plain(Config.fromfile(tmp_path / 'new.py').to_dict()) == new
    assert text.startswith("# one\n# two\n_base_ = 'old.py'\n") and max(map(len, text.splitlines())) < WIDTH


def test_only_changes_are_stated():
    assert changes(OLD, OLD) == {}
    assert changes(OLD, CASES['a value']) == {'model': {'neck': {'in_channels': [16, 32]}}}
    stated = changes(OLD, CASES['another type'])
    assert stated == {'model': {'backbone': {'_delete_': True, 'type': 'mmfreq.HorNet', 'out_indices': (0,), 'rate': 0.0}}}


def test_a_dict_of_another_type_is_stated_completely():
    assert changes({'a': {'type': 'A', 'b': 1}}, {'a': {'type': 'B', 'b': 1}}) == {'a': {'_delete_': True, 'type': 'B', 'b': 1}}


def test_a_key_of_the_outermost_level_cannot_be_removed():
    assert changes(OLD, {'kept': 1}) == {}


def test_long_values_have_one_line_per_entry():
    stated = {'model': {'a': 1, 'b': {'c': ['x' * 60, 'y' * 60]}}}
    lines = ['_base_ = []', 'model = dict(', '    a=1,', '    b=dict(', '        c=[']
    lines += [f"            '{letter * 60}'," for letter in 'xy'] + ['        ],', '    ),', ')', '']
    assert leaf_text([], stated).split('\n') == lines


@pytest.mark.parametrize(
    ('name', 'lines'),
    [
        ('a value', ['model.neck.in_channels: [256, 512] -> [16, 32]']),
        ('a key less', ['model.neck.start_level: 1 -> (none)']),
        ('in a list', ['model.heads.0.in_channels: 3 -> 9']),
        ('dict to None', ["model.neck: dict(type='FPN', in_channels=[256, 512], start_level=1) -> None"]),
        ('None to dict', ['model.pretrained: None -> dict(a=1)']),
        ('nothing', []),
    ],
)
def test_lines_of_a_difference(name, lines):
    assert difference_lines(OLD, CASES[name]) == lines


def test_a_long_value_is_shortened_in_the_lines():
    (line,) = difference_lines({'a': 1}, {'a': 'x' * 500})
    assert line.endswith('xxx ...') and len(line) == len('a: 1 -> ') + WIDTH

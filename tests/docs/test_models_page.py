"""docs/models.md: its tables are what the models and the registries have."""

import re
from itertools import product
from pathlib import Path

import pytest
import torch

import mmfreq
from mmfreq.models._factory import FAMILIES, backbone_class

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs' / 'models.md').read_text(encoding='utf-8')


def rows(header):
    """Cells of the table whose header row starts with `header`."""
    lines = PAGE[PAGE.index(f'\n| {header}') :].strip().split('\n\n')[0].splitlines()
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]


def expand(pattern):
    """'a-{b,c}' is a-b, a-c."""
    parts = [part.split(',') for part in re.split(r'[{}]', pattern)]
    return {''.join(choice) for choice in product(*parts)}


@pytest.mark.slow
def test_the_table_of_backbones_names_every_arch_and_its_size():
    found = {}
    for kind, archs, _, sizes in rows('type | archs'):
        names = {name for pattern in re.findall(r'`([^`]+)`', archs) for name in expand(pattern)}
        found[kind.strip('`')] = names
        with torch.device('meta'):
            counts = [sum(p.numel() for p in mmfreq.build_classifier(name).parameters()) for name in names]
        assert sizes == f'{min(counts) / 1e6:.1f}M to {max(counts) / 1e6:.1f}M', kind
        assert {backbone_class(name).__name__ for name in names} == {kind.strip('`').removeprefix('mmfreq.')}
    assert set().union(*found.values()) == {arch for arch in mmfreq.list_archs() if 'micro' not in arch}


def test_every_decoder_is_named():
    """What the registries hold beside the backbones and the classifier."""
    from mmfreq.registry import MODELS, TASK_UTILS

    named = {name for row in rows('type | what') for name in re.findall(r'`mmfreq\.(\w+)`', row[0])}
    backbones = {row[0].strip('`').removeprefix('mmfreq.') for row in rows('type | archs')}
    for registry in (MODELS, TASK_UTILS):
        registry.import_from_location()
    assert {*MODELS.module_dict, *TASK_UTILS.module_dict} == named | backbones | {'FrequencyImageClassifier'}


def test_what_works_with_every_family_is_tested_with_every_family():
    found = rows('what | tested in')
    assert len(found) >= 6
    for what, where in found:
        paths = re.findall(r'`(tests/[\w/]+\.py)`', where)
        assert paths, what
        for path in paths:
            text = (ROOT / path).read_text(encoding='utf-8')
            every = 'list_archs(' in text or 'in FAMILIES' in text
            assert every or all(re.search(rf'\b{family}\b', text) for family in FAMILIES), (what, path)

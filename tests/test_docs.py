"""What README.md says is so: its Python runs, its paths and commands exist, its table is what the models have."""

import re
from itertools import product
from pathlib import Path

import pytest
import torch

import mmfreq
from mmfreq.models.factory import backbone_class

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', README, re.MULTILINE | re.DOTALL)


def rows(header):
    """Cells of the table whose header row starts with `header`."""
    lines = README[README.index(f'\n| {header}') :].strip().split('\n\n')[0].splitlines()
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]


def segmentor_parameters(config):
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    from mmfreq.engine.machine import sync_to_batch_norm

    cfg = Config.fromfile(config)
    sync_to_batch_norm(cfg.model)
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'):
        return sum(p.numel() for p in MODELS.build(cfg.model).parameters())


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch):
    from mmengine.config import Config

    monkeypatch.chdir(tmp_path)
    torch.save({'model': mmfreq.build_classifier('hornet-tiny-gf').state_dict()}, 'hornet_tiny_gf.pth')
    found = blocks('python')
    assert len(found) >= 4
    spaces = []
    for block in found:
        exec(compile(block, 'README.md', 'exec'), space := {})
        spaces.append(space)
        if space.get('model', {}) and isinstance(space['model'], dict):
            base = tmp_path / 'base.py'
            base.write_text("_base_ = 'mmseg::_base_/models/upernet_r50.py'\n" + block)
            assert Config.fromfile(base).model.backbone == dict(
                type='mmfreq.HorNet', arch='hornet-tiny-gf', img_size=384, drop_path_rate=0.4
            )
    got = {name: value for space in spaces for name, value in space.items()}
    assert [f.shape[1] for f in got['features']] == [128, 256, 512]
    assert got['report'].loaded == len(got['classifier'].state_dict())
    assert got['channels'] == [128, 256, 512]
    assert got['mixer'](torch.zeros(1, 64, 20, 30)).shape == (1, 128, 20, 30)


def expand(pattern):
    """'a-{b,c}' is a-b, a-c."""
    parts = [part.split(',') for part in re.split(r'[{}]', pattern)]
    return {''.join(choice) for choice in product(*parts)}


def test_table_of_backbones_names_every_arch_and_its_size():
    told = {}
    for kind, archs, _, sizes in rows('type'):
        names = {name for pattern in re.findall(r'`([^`]+)`', archs) for name in expand(pattern)}
        told[kind.strip('`')] = names
        with torch.device('meta'):
            counts = [sum(p.numel() for p in mmfreq.build_classifier(name).parameters()) for name in names]
        assert sizes == f'{min(counts) / 1e6:.1f}M to {max(counts) / 1e6:.1f}M', kind
        assert {backbone_class(name).__name__ for name in names} == {kind.strip('`').removeprefix('mmfreq.')}
    assert set().union(*told.values()) == {arch for arch in mmfreq.list_archs() if 'micro' not in arch}


def test_named_files_exist():
    named = set(re.findall(r'(?:tools|configs|mmfreq|docs|tests)/[\w./-]*\w', README))
    named |= set(re.findall(r'\]\(([\w./-]+)\)', README))
    assert len(named) > 15
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


def test_layout_table_names_every_package():
    told = ' '.join(cell for row in rows('folder') for cell in row)
    packages = [p.parent.name for p in (ROOT / 'mmfreq').glob('*/__init__.py')]
    assert len(packages) >= 9
    assert not [p for p in packages if f'mmfreq/{p}/' not in told]


def test_arch_table_is_measured():
    table = rows('arch')
    assert {row[0].split('`')[1] for row in table} == {
        a for a in mmfreq.list_archs('hornet') if not a.endswith(('micro', 'img384'))
    }
    for name, crop, params, whole, _, miou, augmented in table:
        arch = name.split('`')[1]
        with torch.device('meta'):
            measured = sum(p.numel() for p in mmfreq.build_backbone(arch, img_size=384).parameters())
        assert params == f'{measured / 1e6:.1f}M', arch
        config = ROOT / f'configs/seg/hornet/{arch}_upernet_8xb2-160k_ade20k-{crop}x{crop}.py'
        assert f'as published: {miou} mIoU, {augmented} with multi-scale and flip.' in config.read_text().splitlines()[0]
        assert abs(segmentor_parameters(config) / 1e6 - int(whole.removesuffix('M'))) < 0.5, arch

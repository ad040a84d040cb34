"""The Python on the pages of the guide: scripts run, and configs build a model."""

import re
from pathlib import Path

import pytest
import torch

import mmfreq

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parents[2] / 'docs'
SCRIPTS = ('index', 'getting_started', 'weights', 'training')
CONFIGS = ('getting_started', 'configs', 'image_sizes', 'weights')


def blocks(page):
    text = (DOCS / f'{page}.md').read_text(encoding='utf-8')
    return re.findall(r'^```python\n(.*?)^```', text, re.MULTILINE | re.DOTALL)


def is_script(block):
    return bool(re.match(r'(import|from) |classifier = ', block))


@pytest.mark.parametrize('page', SCRIPTS)
def test_scripts_run(page, tmp_path, monkeypatch):
    """The scripts of one page, one after the other, beside files with the published names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MMFREQ_WEIGHTS', str(tmp_path))
    for name in ('hornet_tiny_gf', 'hornet-tiny-gf_in1k', 'hornet-tiny-gf_in1k-dense'):
        torch.save({'model': mmfreq.build_classifier('hornet-tiny-gf').state_dict()}, f'{name}.pth')
    scripts = [block for block in blocks(page) if is_script(block)]
    space = {}
    for script in scripts:
        exec(compile(script, f'{page}.md', 'exec'), space)
    assert scripts and {'mmfreq', 'train'} & space.keys()


@pytest.mark.parametrize('page', CONFIGS)
def test_configs_build_their_backbone(page, tmp_path):
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    configs = [block for block in blocks(page) if not is_script(block)]
    assert configs
    for number, config in enumerate(configs):
        path = tmp_path / f'config_{number}.py'
        path.write_text(config if '_base_' in config else f"_base_ = 'mmseg::_base_/models/upernet_r50.py'\n{config}")
        backbone = dict(Config.fromfile(path).model.backbone)
        if str(backbone.get('type')).startswith('mmfreq.'):
            with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'):
                assert MODELS.build(backbone).out_channels

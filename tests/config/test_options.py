"""`--cfg-options model.backbone.type=mmfreq....` removes the old backbone's keys; other options are merged as mmengine does it."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import mmfreq
from mmfreq.config import options as options_module
from mmfreq.config.options import backbone_options, dotted, merge_options
from mmfreq.engine.launch import load_config
from mmfreq.engine.processes import sync_to_batch_norm
from mmfreq.errors import UserError

CONFIGS = Path(mmfreq.__file__).parents[1] / 'configs'
FPN = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
DFFORMER = {'model.backbone.type': 'mmfreq.DFFormer', 'model.backbone.arch': 'dfformer-s18'}
MORE = {'drop_path_rate': 0.2, 'init_cfg': {'type': 'Pretrained', 'checkpoint': 'x.pth'}}


@pytest.fixture
def messages(monkeypatch):
    logged = []
    monkeypatch.setattr(options_module, 'log_once', logged.append)
    return logged


@pytest.fixture
def stock(tmp_path):
    """Path of a leaf on a stock config."""
    path = tmp_path / 'stock.py'
    path.write_text(f'_base_ = {FPN!r}\n')
    return path


def merged_by_mmengine(path, options):
    """The config with mmengine's own merging."""
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(copy.deepcopy(options))
    return cfg.to_dict()


def test_keys_of_the_old_backbone_are_removed(stock, messages):
    before = Config.fromfile(stock).model
    assert before.pretrained and before.backbone.depth == 50
    cfg = load_config(stock, DFFORMER | {'model.neck.in_channels': [64, 128, 320, 512]})
    assert cfg.model.backbone.to_dict() == {'type': 'mmfreq.DFFormer', 'arch': 'dfformer-s18', 'out_indices': (0, 1, 2, 3)}
    assert 'pretrained' not in cfg.model and cfg.model.neck.in_channels == [64, 128, 320, 512]
    (message,) = messages
    for part in (
        'mmfreq.DFFormer',
        'ResNetV1c',
        'depth',
        'num_stages',
        'model.pretrained',
        '[64, 128, 320, 512]',
        '[4, 8, 16, 32]',
    ):
        assert part in message
    assert 'out_indices' not in message


def test_the_model_runs(stock):
    channels = list(mmfreq.build_backbone('dfformer-micro').out_channels)
    options = DFFORMER | {'model.backbone.arch': 'dfformer-micro', 'model.neck.in_channels': channels}
    cfg = load_config(stock, options)
    sync_to_batch_norm(cfg.model)
    with DefaultScope.overwrite_default_scope('mmseg'), torch.no_grad():
        assert MODELS.build(cfg.model)(torch.zeros(1, 3, 64, 96), mode='tensor').shape == (1, 150, 16, 24)


@pytest.mark.parametrize(
    'options',
    [
        DFFORMER | {f'model.backbone.{key}': value for key, value in MORE.items()},
        {'model': {'backbone': {'type': 'mmfreq.DFFormer', 'arch': 'dfformer-s18', **MORE}}},
        {'model.backbone': {'type': 'mmfreq.DFFormer', **MORE}, 'model.backbone.arch': 'dfformer-s18'},
    ],
    ids=['dotted', 'nested', 'both'],
)
def test_options_stay(stock, messages, options):
    given = copy.deepcopy(options)
    assert load_config(stock, options).model.backbone.to_dict() == {
        'type': 'mmfreq.DFFormer',
        'arch': 'dfformer-s18',
        'out_indices': (0, 1, 2, 3),
        **MORE,
    }
    assert options == given and len(messages) == 1


def test_a_backbone_with_delete_leaves_no_keys(stock, messages):
    backbone = {'_delete_': True, 'type': 'mmfreq.HorNet', 'arch': 'hornet-micro'}
    assert load_config(stock, {'model.backbone': backbone}).model.backbone == {'type': 'mmfreq.HorNet', 'arch': 'hornet-micro'}
    assert len(messages) == 1 and 'model.pretrained' in messages[0] and 'depth' not in messages[0]
    assert backbone['_delete_']  # the caller's dict stays as it was


def test_default_arch(stock, messages):
    backbone = load_config(stock, {'model.backbone.type': 'mmfreq.GFNetPyramid', 'model.backbone.out_indices': [3]}).model.backbone
    assert backbone == {'type': 'mmfreq.GFNetPyramid', 'out_indices': [3]}
    assert '[512]' in messages[0] and '[32]' in messages[0]


@pytest.mark.parametrize(
    'options',
    [
        None,
        {},
        {'model.backbone.with_cp': True},
        {'model.backbone.type': 'mmfreq.DFFormer', 'model.backbone.arch': 'dfformer-micro'},
        {'model.backbone.type': 'ResNet'},
        {'model.backbone': {'_delete_': True, 'type': 'mmfreq.AFFNet'}, 'train_cfg.max_iters': 7},
    ],
)
def test_configs_of_mmfreq_are_merged_by_mmengine(messages, options):
    path = CONFIGS / 'upernet_hornet_ade20k.py'
    assert load_config(path, options).to_dict() == merged_by_mmengine(path, options or {})
    assert not messages


@pytest.mark.parametrize('options', [{'model.backbone.depth': 18}, {'model.backbone.type': 'mmpretrain.ConvNeXt'}, {'a': {'b': 1}}])
def test_backbones_of_other_libraries_are_merged_by_mmengine(stock, messages, options):
    assert load_config(stock, options).to_dict() == merged_by_mmengine(stock, options)
    assert not messages


def test_the_options_are_not_modified(stock):
    """mmengine's merging removes `_delete_` from its argument, so that a second config would be merged differently."""
    options = {'optim_wrapper': {'_delete_': True, 'type': 'OptimWrapper'}, 'model.neck.in_channels': [1, 2, 3, 4]}
    before = copy.deepcopy(options)
    for _ in range(2):
        cfg = load_config(stock, options)
        assert cfg.optim_wrapper == {'type': 'OptimWrapper'}
        cfg.model.neck.in_channels.clear()
        assert options == before


def test_a_config_without_a_model():
    cfg = Config({'a': 1})
    merge_options(cfg, {'a': 2, 'model.backbone.type': 'mmfreq.HorNet'})
    assert cfg.to_dict() == {'a': 2, 'model': {'backbone': {'type': 'mmfreq.HorNet'}}}


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        ({'type': 'mmfreq.DFormer'}, ('mmfreq.DFormer', 'mmfreq.HorNet')),
        ({'arch': 'hornet-micro'}, ("'hornet-micro'", 'mmfreq.HorNet', 'mmfreq.DFFormer')),
        ({'arch': 'dfformer-s17'}, ("'dfformer-s17'", 'dfformer-s18')),
        ({'depth': 18}, ('mmfreq.DFFormer', 'depth', 'arch, in_channels')),
        ({'img_size': 8}, ('img_size', '32', '8')),
    ],
)
def test_refused(stock, options, named):
    options = DFFORMER | {f'model.backbone.{key}': value for key, value in options.items()}
    with pytest.raises((UserError, ValueError)) as error:
        load_config(stock, options)
    assert [part for part in named if part not in str(error.value)] == []


def test_out_indices_of_the_old_backbone_that_do_not_exist(tmp_path):
    """`out_indices` of a transformer are block numbers."""
    path = tmp_path / 'vit.py'
    path.write_text("_base_ = 'mmseg::vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py'\n")
    with pytest.raises(UserError, match=r'mmfreq\.DFFormer.*out_indices=\[2, 5, 8, 11\].*VisionTransformer'):
        load_config(path, DFFORMER)
    assert load_config(path, DFFORMER | {'model.backbone.out_indices': [0, 1, 2, 3]}).model.backbone.out_indices == [0, 1, 2, 3]


def test_dotted():
    nested = {'a': {'b': {'c': 1}, 'd.e': 2}, 'f': {}, 'g': {'type': 'T', 'h': 1}, 'i': {'_delete_': True, 'h': {'j': 1}}}
    assert dotted(nested) == {'a.b.c': 1, 'a.d.e': 2, 'f': {}, 'g': nested['g'], 'i': nested['i']}


def test_backbone_options():
    options = {'model.backbone': {'_delete_': True, 'type': 'T', 'a': 1}, 'model.backbone.b.c': 2, 'model.neck.d': 3}
    assert backbone_options(options) == {'type': 'T', 'a': 1, 'b': {'c': 2}}
    assert backbone_options({'model.neck.d': 3}) == {}

"""Layer decay: the published groups, and backbones of other libraries."""

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmfreq.models.conv_layer import GnConvModule
from mmfreq.models.hornet import HorNet
from mmfreq.models.seg_heads import GnUPerHead
from mmfreq.testing.golden import read_golden

LEVELS = [64, 128, 256, 512]


class Neck(nn.Module):
    """Names and ranks of the golden file's neck: 1x1 laterals and gnConv outputs, 64 channels."""

    def __init__(self):
        super().__init__()
        from mmcv.cnn import ConvModule

        self.lateral_convs = nn.ModuleList(ConvModule(c, 64, 1, act_cfg=None) for c in LEVELS)
        self.fpn_convs = nn.ModuleList(GnConvModule(64, 64, dict(grid=32)) for _ in LEVELS)


class Model(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.backbone = HorNet('hornet-tiny-gf')
        if name == 'segmentor':
            head = dict(in_channels=LEVELS, in_index=[0, 1, 2, 3], channels=64, num_classes=150, norm_cfg=dict(type='BN'))
            self.decode_head = GnUPerHead(gnconv_cfg=dict(grid=32), **head)
        else:
            self.neck = Neck()


def groups_of(model, paramwise_cfg, lr=1e-4):
    cfg = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.05),
        constructor='mmfreq.LayerDecayOptimWrapperConstructor',
        paramwise_cfg=paramwise_cfg,
    )
    return {g['group_name']: g for g in build_optim_wrapper(model, copy.deepcopy(cfg)).optimizer.param_groups}


@pytest.fixture(scope='module')
def models():
    with torch.device('meta'):
        return {name: Model(name) for name in ('segmentor', 'detector')}


@pytest.mark.parametrize('index', range(5))
def test_golden_groups(index, models, golden_folder):
    golden = read_golden(golden_folder, 'hornet__param_groups')
    assert len(golden['cases']) == 5
    case = golden['cases'][index]
    cfg = {k: case[k] for k in ('decay_rate', 'decay_type', 'num_layers')}
    got = groups_of(models[case['model']], cfg, golden['base_lr'])
    assert set(got) == set(case['groups'])
    for name, want in case['groups'].items():
        assert got[name]['lr'] == pytest.approx(want['lr'], rel=1e-12)
        assert got[name]['lr_scale'] == pytest.approx(want['lr_scale'], rel=1e-12)
        assert got[name]['weight_decay'] == want['weight_decay']
        assert len(got[name]['params']) == want['num_params']
        assert sorted(got[name]['param_names']) == sorted(want.get('param_names', got[name]['param_names']))


def test_frozen_parameters_get_no_group():
    model = nn.Module()
    model.backbone = HorNet('hornet-micro', frozen_stages=1)
    groups = groups_of(model, dict(decay_rate=0.9, decay_type='stage_wise', num_layers=12))
    assert not any(n.startswith('layer_1_') for n in groups)
    assert sum(len(g['params']) for g in groups.values()) == sum(p.requires_grad for p in model.parameters())


class OtherBackbone(nn.Module):
    """A backbone of another library, with mmpretrain's method."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Linear(2, 2), nn.Linear(2, 2)

    def get_layer_depth(self, param_name, prefix=''):
        return (0 if param_name.removeprefix(prefix).startswith('stem') else 1), 3


def other_model(backbone):
    model = nn.Module()
    model.backbone, model.head = backbone, nn.Linear(2, 2)
    return model


def test_backbone_with_get_layer_depth():
    groups = groups_of(other_model(OtherBackbone()), dict(decay_rate=0.5, decay_type='layer_wise', num_layers=1), lr=1.0)
    assert {n: g['lr'] for n, g in groups.items() if n.endswith('_decay') and 'no' not in n} == {
        'layer_0_decay': 0.25,
        'layer_1_decay': 0.5,
        'layer_2_decay': 1.0,
    }


def test_mmpretrain_convnext():
    from mmpretrain.models import ConvNeXt

    model = other_model(ConvNeXt('atto', out_indices=(0, 1, 2, 3), gap_before_final_norm=False))
    num_layers = model.backbone.get_layer_depth('downsample_layers.0.0.weight', '')[1] - 2
    groups = groups_of(model, dict(decay_rate=0.5, decay_type='layer_wise', num_layers=num_layers), lr=1.0)
    assert groups['layer_0_decay']['lr'] == pytest.approx(0.5 ** (num_layers + 1))
    assert len({n.split('_')[1] for n in groups}) > 5


@pytest.mark.parametrize(
    'cfg,message',
    [
        (dict(decay_rate=0.9), 'needs decay_rate, num_layers and decay_type'),
        (dict(decay_rate=0.9, num_layers=12, decay_type='stagewise'), 'stage_wise, layer_wise'),
        (dict(decay_rate=0.9, num_layers=12, decay_type='stage_wise', custom_keys={}), 'custom_keys'),
    ],
)
def test_invalid_paramwise_cfg(cfg, message):
    with pytest.raises(ValueError, match=message):
        groups_of(other_model(HorNet('hornet-micro')), cfg)


def test_wrong_number_of_groups():
    with pytest.raises(ValueError, match=r'num_layers.*\b1\b.*\b12\b'):
        groups_of(other_model(OtherBackbone()), dict(decay_rate=0.9, num_layers=12, decay_type='layer_wise'))


def test_backbone_without_groups():
    with pytest.raises(TypeError, match=r'Linear.*layer_decay_group'):
        groups_of(other_model(nn.Linear(2, 2)), dict(decay_rate=0.9, num_layers=12, decay_type='stage_wise'))


def test_one_rate_needs_no_groups():
    groups = groups_of(other_model(nn.Linear(2, 2)), dict(decay_rate=1.0, num_layers=12, decay_type='stage_wise'), lr=1.0)
    assert {group['lr'] for group in groups.values()} == {1.0}
    assert {name: group['weight_decay'] > 0 for name, group in groups.items()} == {
        'layer_13_decay': True,
        'layer_13_no_decay': False,
    }

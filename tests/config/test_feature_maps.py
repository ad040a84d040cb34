"""Feature maps of backbones and necks: measured on the meta device, and as mmfreq's backbones state them."""

import pytest
import torch

import mmfreq
from mmfreq.config.feature_maps import Maps, backbone_maps, neck_maps, returned_maps, stage_maps
from mmfreq.config.meta_model import LinspaceOnCpu
from mmfreq.config.options import build_arch_on_meta, find_backbone_class, is_mmfreq_type
from mmfreq.errors import UserError

RESNET = {'type': 'ResNetV1c', 'depth': 50, 'out_indices': (0, 1, 2, 3)}
FPN = {'type': 'FPN', 'in_channels': [256, 512, 1024, 2048], 'out_channels': 64, 'num_outs': 5}


def test_maps():
    maps = Maps((16, 32, 64), (4, 8, 16))
    assert len(maps) == 3 and maps.pick([2, 0]) == Maps((64, 16), (16, 4))
    assert [Maps(s, s).isotropic for s in ((4, 8), (16, 16), (16,))] == [False, True, False]


def test_a_stock_backbone_is_run():
    assert backbone_maps(RESNET, 'mmseg') == Maps((256, 512, 1024, 2048), (4, 8, 16, 32))
    dilated = RESNET | {'dilations': (1, 1, 2, 4), 'strides': (1, 2, 1, 1), 'out_indices': (1, 3)}
    assert backbone_maps(dilated, 'mmseg') == Maps((512, 2048), (8, 8))
    assert backbone_maps(RESNET | {'in_channels': 4}, 'mmseg').channels == (256, 512, 1024, 2048)


def test_the_config_is_not_modified():
    """ResNet removes `fallback_on_stride` from its `dcn`."""
    cfg = RESNET | {'dcn': {'type': 'DCN', 'fallback_on_stride': True}, 'stage_with_dcn': (False, False, False, True)}
    backbone_maps(cfg, 'mmseg')
    assert cfg['dcn'] == {'type': 'DCN', 'fallback_on_stride': True}


def test_drop_path_rates_have_values_on_the_meta_device():
    with torch.device('meta'), LinspaceOnCpu():
        assert torch.linspace(0, 1, 3).tolist() == [0.0, 0.5, 1.0] and torch.zeros(1).is_meta


def test_a_neck_is_run():
    assert neck_maps(FPN, 'mmdet', Maps((256, 512, 1024, 2048), (4, 8, 16, 32))) == Maps((64,) * 5, (4, 8, 16, 32, 64))


@pytest.mark.parametrize('arch', [arch for arch in mmfreq.list_archs() if arch.endswith('micro')])
def test_backbones_return_the_maps_that_they_state(arch):
    """The stated maps are those of a forward pass."""
    backbone = mmfreq.build_backbone(arch, out_indices=(3, 1)).eval()
    with torch.no_grad():
        outs = backbone(torch.zeros(1, 3, 64, 64))
    found = Maps(tuple(out.shape[1] for out in outs), tuple(64 // out.shape[2] for out in outs))
    stated = build_arch_on_meta(arch, out_indices=(3, 1))
    assert returned_maps(stated) == found and stage_maps(stated).pick([3, 1]) == found
    assert all(p.is_meta for p in stated.parameters())
    cfg = {'type': f'mmfreq.{type(backbone).__name__}', 'arch': arch, 'out_indices': (3, 1)}
    assert backbone_maps(cfg, 'mmseg') == found


def test_types():
    hornet = find_backbone_class('HorNet')
    assert hornet.__name__ == 'HorNet' and is_mmfreq_type(hornet) and is_mmfreq_type('mmfreq.HorNet')
    assert not is_mmfreq_type('ResNet') and not is_mmfreq_type(None) and not is_mmfreq_type(torch.nn.Conv2d)


@pytest.mark.parametrize(
    ('call', 'facts'),
    [
        (lambda: find_backbone_class('HorNets'), ('mmfreq.HorNets', 'mmfreq.HorNet,')),
        (lambda: find_backbone_class('AFFNet', 'gfnet-ti'), ("'gfnet-ti'", 'mmfreq.GFNet', 'mmfreq.AFFNet')),
        (lambda: build_arch_on_meta('hornet-micro', output_stride=8), ('mmfreq.HorNet', 'output_stride', ' arch')),
        (lambda: build_arch_on_meta('affnet-micro', drop_path_rate='a'), ('mmfreq.AFFNet', 'drop_path_rate')),
        (lambda: backbone_maps({'type': 'NoSuchNet'}, 'mmdet'), ('NoSuchNet',)),
        (lambda: backbone_maps(RESNET | {'depth': 17}, 'mmseg'), ("KeyError: 'invalid depth 17",)),
        (lambda: neck_maps(FPN, 'mmdet', Maps((1,) * 4, (4, 8, 16, 32))), ('FPN',)),
        (
            lambda: neck_maps({'type': 'mmpretrain.GlobalAveragePooling'}, 'mmdet', Maps((8, 8), (4, 8))),
            ('GlobalAveragePooling', '(N, C, h, w)'),
        ),
    ],
)
def test_refused(call, facts):
    with pytest.raises(UserError) as error:
        call()
    assert all(fact in str(error.value) for fact in facts), error.value

"""GnFPN: published numbers, extra levels, differences from mmdet's FPN."""

import pytest
import torch
from mmdet.models.necks import FPN

from mmfreq.models.conv_layer import GnConvModule
from mmfreq.models.necks import GnFPN
from mmfreq.registry import MODELS
from mmfreq.testing.golden import golden_inputs, golden_state, read_golden, worst_error

GNCONV_CFG = {'gnconv': dict(kernel_size=7), 'gngf': dict(grid=32)}
CHANNELS = [16, 32, 64, 128]


def levels(sizes=((24, 33), (12, 17), (6, 9), (3, 5))):
    return tuple(torch.randn(2, c, *size, requires_grad=True) for c, size in zip(CHANNELS, sizes))


@pytest.mark.parametrize('name', GNCONV_CFG)
def test_golden_neck(name, golden_folder, within_limit):
    golden = read_golden(golden_folder, f'hornet__gnfpn_{name}')
    kwargs = {k: golden['kwargs'][k] for k in ('in_channels', 'out_channels', 'num_outs')}
    neck = MODELS.build(dict(type='mmfreq.GnFPN', gnconv_cfg=GNCONV_CFG[name], **kwargs)).eval()
    assert sum(p.numel() for p in neck.parameters()) == golden['num_params']
    neck.load_state_dict(golden_state(golden['state_dict']), strict=True)
    for case in golden['cases']:
        with torch.no_grad():
            within_limit('hornet outputs', *worst_error(neck(golden_inputs(case)), case['outputs']))


@pytest.mark.parametrize('grid', [None, 8])
@pytest.mark.parametrize('extra', [False, True, 'on_input', 'on_lateral', 'on_output'])
@pytest.mark.parametrize('start_level', [0, 1])
def test_levels_are_those_of_mmdets_fpn(extra, start_level, grid):
    args = dict(in_channels=CHANNELS, out_channels=16, num_outs=6 - start_level, start_level=start_level, add_extra_convs=extra)
    neck, stock = GnFPN(gnconv_cfg=dict(grid=grid), **args), FPN(**args)
    inputs = levels()
    outputs = neck(inputs)
    assert [out.shape for out in outputs] == [out.shape for out in stock(inputs)]
    assert all(type(conv) is GnConvModule for conv in neck.fpn_convs)
    sum(out.square().mean() for out in outputs).backward()
    assert not [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.any()]


def test_only_the_output_convolutions_differ_from_mmdets_fpn():
    args = dict(in_channels=CHANNELS, out_channels=16, num_outs=5, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'))
    neck, stock = GnFPN(**args), FPN(**args)
    assert {n.split('.')[0] for n in stock.state_dict().keys() ^ neck.state_dict().keys()} == {'fpn_convs'}
    assert neck.fpn_convs[0].bn.weight.shape == (16,)


def test_published_number_of_parameters_of_the_neck():
    """FPN for HorNet-S: 2.730M parameters, with 7x7 gnConvs 1.368M, with global-local filters 2.140M."""
    args = dict(in_channels=[96, 192, 384, 768], out_channels=256, num_outs=5)
    with torch.device('meta'):
        necks = [FPN(**args), *(GnFPN(gnconv_cfg=cfg, **args) for cfg in GNCONV_CFG.values())]
    assert [round(sum(p.numel() for p in neck.parameters()) / 1e6, 3) for neck in necks] == [2.730, 1.368, 2.140]

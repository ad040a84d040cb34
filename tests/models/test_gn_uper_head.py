"""GnUPerHead: the published head's numbers, and what of it is not mmseg's."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.models.decode_heads import UPerHead

from mmfreq.models.conv_layer import GnConvModule
from mmfreq.models.seg_heads import GnUPerHead
from mmfreq.registry import MODELS
from mmfreq.testing.golden import golden_inputs, golden_state, read_golden, worst_error

GNCONV_CFG = {'gnconv': dict(kernel_size=7), 'gngf': dict(grid=32)}
ARGS = dict(in_channels=[16, 32, 64, 128], in_index=[0, 1, 2, 3], channels=32, num_classes=5, norm_cfg=dict(type='BN'))


@pytest.mark.parametrize('kind', GNCONV_CFG)
def test_golden_head(kind, golden_folder, within_limit):
    golden = read_golden(golden_folder, f'hornet__gnuperhead_{kind}')
    kwargs = {k: v for k, v in golden['kwargs'].items() if k != 'conv_cfg'}
    with DefaultScope.overwrite_default_scope('mmseg'):
        head = MODELS.build(dict(type='mmfreq.GnUPerHead', gnconv_cfg=GNCONV_CFG[kind], **kwargs)).eval()
    assert sum(p.numel() for p in head.parameters()) == golden['num_params']
    head.load_state_dict(golden_state(golden['state_dict']), strict=True)
    for case in golden['cases']:
        levels = golden_inputs(case)
        with torch.no_grad():
            within_limit('hornet outputs', *worst_error([head._forward_feature(levels), head(levels)], case['outputs']))


def test_only_the_fusion_differs_from_the_stock_head():
    stock, ours = UPerHead(**ARGS), GnUPerHead(**ARGS)
    differing = {n.split('.')[0] for n in stock.state_dict().keys() ^ ours.state_dict().keys()}
    assert differing == {'fpn_bottleneck'}
    assert type(ours.fpn_bottleneck) is GnConvModule and ours.fpn_bottleneck.dwconv.kernel_size == (7, 7)


def test_size_of_the_published_fusion():
    """2048 to 512 channels: 9.438M parameters plain, 2.532M with a 7x7 gnConv, 2.918M with a global-local filter."""
    sizes = []
    for cfg in GNCONV_CFG.values():
        with torch.device('meta'):
            module = GnConvModule(2048, 512, cfg, dict(type='BN'), dict(type='ReLU'))
        sizes.append(round(sum(p.numel() for p in module.parameters()) / 1e6, 3))
    assert sizes == [2.532, 2.918]

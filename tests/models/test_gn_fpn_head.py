"""GnFPNHead: the stock head's shapes with gnConvs inside."""

import torch
from mmengine.registry import DefaultScope
from mmseg.models.decode_heads import FPNHead

from mmfreq.models.conv_layer import GnConvModule
from mmfreq.models.seg_heads import GnFPNHead
from mmfreq.registry import MODELS

ARGS = dict(
    in_channels=[16, 16, 16, 16],
    in_index=[0, 1, 2, 3],
    feature_strides=[4, 8, 16, 32],
    channels=32,
    num_classes=5,
    norm_cfg=dict(type='BN'),
)


def test_same_grid_as_the_stock_head_and_a_gradient_everywhere():
    with DefaultScope.overwrite_default_scope('mmseg'):
        head = MODELS.build(dict(type='mmfreq.GnFPNHead', gnconv_cfg=dict(order=3), **ARGS))
    levels = [torch.randn(2, 16, *size) for size in ((16, 24), (8, 12), (4, 6), (2, 3))]
    out = head(levels)
    assert out.shape == FPNHead(**ARGS)(levels).shape == (2, 5, 16, 24)
    out.square().mean().backward()
    assert not [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]


def test_only_the_3x3_convolutions_differ():
    stock, ours = FPNHead(**ARGS), GnFPNHead(**ARGS)
    assert {n.split('.')[0] for n in stock.state_dict().keys() ^ ours.state_dict().keys()} == {'scale_heads'}
    modules = [m for m in ours.modules() if type(m) is GnConvModule]
    assert len(modules) == 1 + 1 + 2 + 3 and modules[0].dims == [16, 32]
    assert not [m for m in ours.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]

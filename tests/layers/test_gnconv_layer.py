"""gnConv as a convolution layer: grids as in `Conv2d`, position of the gate, errors, initialization."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmfreq.layers import GnConv, GnConvLayer
from mmfreq.testing import naming

GRIDS = [
    dict(kernel_size=3, padding=1),
    dict(kernel_size=3, stride=2, padding=1),
    dict(kernel_size=3, padding=0),
    dict(kernel_size=3, padding=4, dilation=4),
    dict(kernel_size=5, stride=(2, 3), padding=(1, 4), dilation=(2, 1)),
    dict(kernel_size=(1, 7), padding=(0, 3)),
    dict(kernel_size=3, padding='same', dilation=2),
    dict(kernel_size=3, padding='valid', stride=2),
    dict(kernel_size=3, padding=1, padding_mode='reflect'),
    dict(kernel_size=3, padding=6),
]


@pytest.mark.parametrize('args', GRIDS, ids=str)
def test_output_size_is_that_of_conv2d(args):
    x = torch.randn(2, 6, 17, 22)
    assert GnConvLayer(6, 8, order=3, **args)(x).shape == nn.Conv2d(6, 8, **args)(x).shape


@pytest.mark.parametrize('args', GRIDS, ids=str)
def test_receptive_field_is_that_of_conv2d(args):
    """The window's center, where the gate is taken, is part of it."""
    if args.get('padding') == 6:  # windows beyond the border contain nothing but padding
        args = dict(args, padding=1)

    def receptive_field(layer):
        x = torch.randn(1, 4, 15, 21, requires_grad=True)
        out = layer.double()(x.double())
        out[0, :, out.shape[2] // 2, out.shape[3] // 2].sum().backward()
        return x.grad.abs().sum((0, 1)) > 0

    torch.manual_seed(0)
    assert torch.equal(receptive_field(GnConvLayer(4, 4, **args)), receptive_field(nn.Conv2d(4, 4, **args)))


@pytest.mark.parametrize('stride', [2, 3])
@pytest.mark.parametrize('grid', [None, 6])
def test_stride_selects_every_nth_pixel(stride, grid):
    torch.manual_seed(0)
    strided = GnConvLayer(4, 8, 3, stride=stride, padding=1, grid=grid)
    dense = GnConvLayer(4, 8, 3, padding=1, grid=grid)
    dense.load_state_dict(strided.state_dict())
    x = torch.randn(2, 4, 11, 14)
    torch.testing.assert_close(strided(x), dense(x)[..., ::stride, ::stride])


def test_less_padding_crops():
    torch.manual_seed(0)
    bare, same = GnConvLayer(4, 4, 5, padding=0), GnConvLayer(4, 4, 5, padding=2)
    same.load_state_dict(bare.state_dict())
    x = torch.randn(1, 4, 12, 13)
    torch.testing.assert_close(bare(x), same(x)[..., 2:-2, 2:-2])


def test_larger_depthwise_kernel_keeps_the_output_size():
    x = torch.randn(1, 4, 12, 13)
    args = dict(kernel_size=3, stride=2, padding=2, dilation=2)
    layer = GnConvLayer(4, 4, dw_kernel_size=7, **args)
    assert layer.dwconv.kernel_size == (7, 7) and layer(x).shape == nn.Conv2d(4, 4, **args)(x).shape


@pytest.mark.parametrize(
    'args, facts',
    [
        (dict(out_channels=10, kernel_size=3, order=3), (10, 8, 12)),
        (dict(out_channels=8, kernel_size=2), (2, 'odd')),
        (dict(out_channels=8, kernel_size=3, padding=2, dilation=2, grid=8), ('grid=None',)),
        (dict(out_channels=8, kernel_size=3, padding=0, grid=8), ('grid=None',)),
        (dict(out_channels=8, kernel_size=3, stride=2, padding='same'), ('stride', 1, 'same')),
    ],
)
def test_invalid_arguments_raise(args, facts):
    with pytest.raises(ValueError, match=naming(*facts)):
        GnConvLayer(8, **args)


@pytest.mark.parametrize('proj_out', [True, False])
@pytest.mark.parametrize('grid', [None, 8])
def test_dtype_is_that_of_conv2d(grid, proj_out):
    layer = GnConvLayer(8, 8, 3, padding=1, grid=grid, proj_out=proj_out)
    with torch.autocast('cpu', torch.bfloat16):
        assert layer(torch.randn(1, 8, 9, 10)).dtype == torch.bfloat16
    assert layer.double()(torch.randn(1, 8, 9, 10).double()).dtype == torch.float64


@pytest.mark.parametrize('grid', [None, 8])
def test_without_bias_the_last_projection_has_none(grid):
    assert GnConvLayer(8, 8, 3, padding=1, bias=False, grid=grid).proj_out.bias is None


@pytest.mark.parametrize('grid', [None, 8])
def test_stack_without_norms_preserves_the_scale_at_initialization(grid):
    torch.manual_seed(0)
    stack = [nn.Sequential(GnConvLayer(64, 64, 3, padding=1, grid=grid), nn.ReLU()) for _ in range(4)]
    x = torch.randn(2, 64, 16, 16)
    out = nn.Sequential(*stack)(x)
    assert 0.2 < out.std() / x.std() < 5


def test_init_cfg_of_a_parent_skips_the_layer():
    from mmengine.model import BaseModule

    class Head(BaseModule):
        def __init__(self):
            super().__init__(init_cfg=dict(type='Normal', layer='Conv2d', std=0.01))
            self.gn, self.plain = GnConvLayer(8, 8, 3), nn.Conv2d(8, 8, 3)

    head = Head()
    before = copy.deepcopy(head.state_dict())
    head.init_weights()
    changed = {name for name, value in head.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith('plain') for name in changed)


def test_layer_can_be_pickled_and_copied():
    layer = GnConvLayer(8, 8, 3, padding=1)
    x = torch.randn(1, 8, 9, 10)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert torch.equal(other(x), layer(x))


def test_output_is_that_of_gnconv():
    layer, mixer = GnConvLayer(8, 8, 7, padding=3, order=3), GnConv(8, order=3, kernel_size=7)
    mixer.load_state_dict(layer.state_dict())
    x = torch.randn(1, 8, 9, 10)
    assert torch.equal(layer(x), mixer(x))


@pytest.mark.parametrize('grid', [None, 8])
def test_reset_parameters_restores_the_initialization(grid):
    layer = GnConvLayer(64, 64, 3, padding=1, grid=grid)
    scale = {name: p.detach().abs().mean() for name, p in layer.named_parameters() if 'weight' in name and 'complex' not in name}
    for name in scale:
        torch.nn.init.constant_(layer.get_parameter(name), 3.0)
    layer.reset_parameters()
    layer.reset_parameters()
    for name, before in scale.items():
        drawn_elsewhere = grid and name.startswith('dwconv.') and 'post_norm' not in name  # by `GlobalFilter`
        assert drawn_elsewhere or 0.8 < layer.get_parameter(name).abs().mean() / before < 1.25, name

"""gnConv and the global-local filter: published numbers and laws."""

import pytest
import torch
from torch import nn

from mmfreq.layers import GlobalLocalFilter, GnConv, LayerNorm2d
from mmfreq.models.conv_layer import GnConvModule
from mmfreq.models.hornet import HorNetBlock
from mmfreq.ops import resize_filter
from mmfreq.testing import naming
from mmfreq.testing.golden import golden_inputs, golden_state, read_golden, worst_error


def square(hw):
    """The stored grid of a published (h, w // 2 + 1) filter; all published ones are square."""
    if hw is None:
        return None
    assert hw[0] // 2 + 1 == hw[1]
    return hw[0]


def module_of(case):
    """The module of a case of the golden file."""
    kw = case['kwargs']
    grid = square(kw.get('filter'))
    match case['class']:
        case 'gnconv':
            return GnConv(kw['dim'], order=kw['order'], scale=kw['scale'], grid=grid)
        case 'GlobalLocalFilter':
            return GlobalLocalFilter(kw['dim'], square([kw['h'], kw['w']]))
        case 'Block':
            return HorNetBlock(kw['dim'], kw['order'], grid, layer_scale=kw['layer_scale_init_value'])
        case 'LayerNorm':
            size, eps = kw['normalized_shape'], kw['eps']
            return LayerNorm2d(size, eps) if kw['data_format'] == 'channels_first' else nn.LayerNorm(size, eps)
        case 'GNConvModule (seg)' | 'GNConvModule (det)':
            shape = dict(grid=32) if kw['type'] == 'gngf' else dict(kernel_size=kw['kernel_size'])
            cfg = dict(order=kw['order'], proj_out=kw['proj_out'], dim_ratio=kw.get('dim_ratio', 1), **shape)
            act = kw.get('act_cfg', dict(type='ReLU'))
            return GnConvModule(kw['in_channels'], kw['out_channels'], cfg, kw.get('norm_cfg'), act)
    raise AssertionError(f'no counterpart of {case["class"]}')


def test_golden_modules(golden_folder, within_limit):
    cases = read_golden(golden_folder, 'hornet__modules')['cases']
    assert len(cases) == 16
    for case in cases:
        state = golden_state(case['state_dict'])
        if case['class'] == 'complex_weight resize':
            side = case['kwargs']['to_hw'][0]
            out = resize_filter(state['complex_weight'], (side, side), 'bilinear')
        else:
            module = module_of(case).eval()
            module.load_state_dict(state)
            assert sum(p.numel() for p in module.parameters()) == case['num_params']
            with torch.no_grad():
                out = module(*golden_inputs(case))
        within_limit('hornet outputs', *worst_error([out], case['outputs']))


def test_order_one_is_a_gated_convolution():
    layer = GnConv(8, order=1).double()
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    gate, rest = layer.proj_in(x).chunk(2, 1)
    torch.testing.assert_close(layer(x), layer.proj_out(gate * layer.dwconv(rest)))


def test_output_has_degree_order_plus_one():
    """Without biases, scaling the input by t scales the output by t^(n+1)."""
    for order in (1, 2, 3, 4):
        layer = GnConv(16, order=order).double()
        for name, param in layer.named_parameters():
            if name.endswith('bias'):
                nn.init.zeros_(param)
        x = torch.randn(1, 16, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(layer(2 * x), 2 ** (order + 1) * layer(x))


def test_global_local_filter_commutes_with_roll_except_for_zero_padding():
    layer = GlobalLocalFilter(8, 7).double()
    nn.init.zeros_(layer.dw.weight)  # its zero padding does not commute
    x = torch.randn(1, 8, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x.roll((2, 3), (2, 3))), layer(x).roll((2, 3), (2, 3)))


def test_channels_interleave_local_and_global():
    layer = GlobalLocalFilter(6, 4)
    nn.init.zeros_(layer.complex_weight)
    layer.post_norm = nn.Identity()
    out = layer(torch.randn(1, 6, 4, 4))
    assert out[:, 1::2].abs().max() == 0
    assert out[:, 0::2].abs().min() > 0


def test_default_order_is_two():
    assert GnConv(16).dims == [8, 16] and len(GnConv(16).pws) == 1


@pytest.mark.parametrize('grid', [None, 5])
def test_gradients(grid):
    layer = GnConv(4, 4, order=2, kernel_size=3, grid=grid).double()
    x = torch.randn(1, 4, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


@pytest.mark.parametrize('dim,order,nearest', [(20, 4, (16, 24)), (7, 4, (8,)), (33, 2, (32, 34))])
def test_error_for_indivisible_channels_names_the_nearest(dim, order, nearest):
    with pytest.raises(ValueError, match=naming(dim, *nearest)):
        GnConv(dim, order=order)


def test_other_invalid_arguments_raise():
    with pytest.raises(ValueError, match='at least 1'):
        GnConv(8, order=0)
    with pytest.raises(ValueError, match='odd'):
        GnConv(8, kernel_size=4)
    with pytest.raises(ValueError, match='dim_ratio=2'):
        GnConv(8, dim_ratio=2, proj_out=False)
    with pytest.raises(ValueError, match='even'):
        GlobalLocalFilter(7, 14)
    with pytest.raises(ValueError, match=r"\['kernel'\]"):
        GnConvModule(8, 8, dict(kernel=3))

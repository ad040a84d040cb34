"""The largest inputs with finite outputs in float16 and bfloat16: the table in docs/performance.md."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import mmfreq
from mmfreq.layers import AdaptiveFrequencyFilter, DynamicFilter, GlobalFilter, GnConv, Mlp, StarReLU
from mmfreq.layers.basic import MAX_FLOAT16_ROOT, squared_relu

PAGE = (Path(mmfreq.__file__).resolve().parents[1] / 'docs' / 'performance.md').read_text(encoding='utf-8')
ROW = re.compile(r'^\| (?P<name>[^|]+?) \| (?P<float16>\d+) \| (?P<bfloat16>> 1e\d+|[\de]+) \|', re.MULTILINE)
C = 32


def mlp():
    return Mlp(C, 4 * C, act=StarReLU, bias=False)


# name in the table -> (constructor, whether its maps are channels-last)
LAYERS = {
    'StarReLU': (StarReLU, False),
    'MLP with StarReLU': (mlp, True),
    'DynamicFilter': (partial(DynamicFilter, C, 16), False),
    'GnConv, order 2': (partial(GnConv, C, order=2), False),
    'GnConv, order 5': (partial(GnConv, C, order=5), False),
    'GnConv, order 5, grid': (partial(GnConv, C, order=5, grid=16), False),
    'GlobalFilter': (partial(GlobalFilter, C, 16), False),
    'AdaptiveFrequencyFilter': (partial(AdaptiveFrequencyFilter, C), False),
}
TABLE = {row['name']: row for row in ROW.finditer(PAGE)}


def finite_at(name, scale, dtype):
    torch.manual_seed(0)
    make, channels_last = LAYERS[name]
    model = make().eval()
    x = (scale * torch.randn(1, C, 16, 16)).to(dtype)
    with torch.no_grad(), torch.autocast('cpu', dtype):
        return model(x.permute(0, 2, 3, 1) if channels_last else x).isfinite().all().item()


def test_table_has_all_layers():
    assert set(TABLE) == set(LAYERS)


@pytest.mark.parametrize('name', LAYERS)
def test_thresholds_of_the_table(name):
    """The largest power of two as scale of a standard normal input at which all outputs are finite."""
    largest = int(TABLE[name]['float16'])
    assert finite_at(name, largest, torch.float16)
    assert largest == 2**14 or not finite_at(name, 2 * largest, torch.float16)  # beyond it the input itself is infinite
    assert finite_at(name, float(TABLE[name]['bfloat16'].removeprefix('> ')), torch.bfloat16)


@pytest.mark.parametrize('autocast', [False, True])
def test_squares_saturate_in_float16_only(autocast):
    x = torch.tensor([-300.0, 0.0, 3.0, MAX_FLOAT16_ROOT, 256.0, 60000.0, float('nan')])
    with torch.no_grad(), torch.autocast('cpu', torch.float16, enabled=autocast):
        for function in (squared_relu, StarReLU()):
            assert function(x.half())[:-1].tolist() == [0, 0, 9, 65472, 65472, 65472] and MAX_FLOAT16_ROOT**2 < 65504 + 16
            assert function(x.half())[-1].isnan()
            for dtype in (torch.float32, torch.bfloat16):
                wide = x.to(dtype)
                assert torch.equal(function(wide)[:-1], torch.relu(wide).square()[:-1])
    assert (MAX_FLOAT16_ROOT + 0.125) ** 2 > 65520  # the next float16 number's square rounds to infinity


def test_gradients_are_finite_where_squares_saturate():
    x = torch.tensor([1.0, 200.0, 1000.0], dtype=torch.half, requires_grad=True)
    squared_relu(x).sum().backward()
    assert x.grad.tolist() == [2, 400, 0]


@pytest.mark.parametrize('arch', ['dfformer-micro', 'cdfformer-micro'])
def test_model_with_overflowing_squares_stays_finite(arch):
    """Hidden values above 256, whose squares exceed the range of float16."""
    torch.manual_seed(0)
    model = mmfreq.build_backbone(arch).eval()
    seen = []
    for module in model.modules():
        if isinstance(module, Mlp):
            module.fc1.weight.data *= 1000
            module.fc2.weight.data /= 1000
    for module in (m for m in model.modules() if isinstance(m, nn.Linear)):
        module.register_forward_hook(lambda m, i, out: seen.append(out.abs().max().item()))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast('cpu', torch.float16):
        hooked = model(images)
        for module in model.modules():
            module._forward_hooks.clear()
        outs = model(images)
    assert max(seen) > 256
    assert all(out.isfinite().all() for out in (*hooked, *outs))

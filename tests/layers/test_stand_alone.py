"""The token mixers in other networks: NCHW or channels-last, any size, training."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from mmfreq.layers import AdaptiveFrequencyFilter, DynamicFilter, GlobalFilter, GnConv

LAYERS = {
    'GlobalFilter': lambda **kw: GlobalFilter(16, 14, **kw),
    'DynamicFilter': lambda **kw: DynamicFilter(16, 14, **kw),
    'AdaptiveFrequencyFilter': lambda **kw: AdaptiveFrequencyFilter(16, **kw),
    'GnConv': lambda **kw: GnConv(16, order=3, **kw),
    'GnConv with a grid': lambda **kw: GnConv(16, order=3, grid=(14, 10), **kw),
}
every_layer = pytest.mark.parametrize('make', LAYERS.values(), ids=LAYERS)


@every_layer
@pytest.mark.parametrize('size', [(14, 14), (9, 13), (1, 1), (20, 7)])
def test_channels_last_is_the_same_function(make, size):
    layer, twin = make().eval(), make(channels_last=True).eval()
    state = layer.state_dict()
    if isinstance(layer, GlobalFilter):  # its parameter has the layout of its map
        state = {'complex_weight': state['complex_weight'].permute(1, 2, 0, 3)}
    twin.load_state_dict(state)
    x = torch.randn(2, 16, *size)
    got = twin(x.permute(0, 2, 3, 1))
    assert got.shape == (2, *size, 16)
    torch.testing.assert_close(got.permute(0, 3, 1, 2), layer(x), rtol=1e-4, atol=1e-6)


@every_layer
def test_samples_are_independent(make):
    layer = make().eval()
    x = torch.randn(3, 16, 11, 8)
    torch.testing.assert_close(torch.cat([layer(image) for image in x.split(1)]), layer(x), rtol=1e-4, atol=1e-6)


@every_layer
def test_layer_trains_within_another_network(make):
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), make(), nn.Conv2d(16, 2, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, want = torch.randn(2, 3, 12, 20), torch.randn(2, 2, 12, 20)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        losses.append((net(x) - want).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert not [name for name, param in net[2].named_parameters() if not param.grad.abs().sum() > 0]


@every_layer
def test_autocast_is_close_to_float32(make):
    layer = make().eval()
    x = torch.randn(1, 16, 14, 14)
    with torch.no_grad():
        want = layer(x)
        with torch.autocast('cpu', torch.bfloat16):
            got = layer(x)
    assert (got.float() - want).norm() / want.norm() < 0.03


@pytest.mark.slow
def test_layers_need_nothing_but_torch():
    code = (
        'import sys\n'
        "for name in ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'timm'):\n"
        '    sys.modules[name] = None\n'
        'import torch\n'
        'from mmfreq.layers import AdaptiveFrequencyFilter, DynamicFilter, GlobalFilter, GnConv\n'
        'print(GnConv(8)(torch.zeros(1, 8, 6, 6)).shape)\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and 'torch.Size([1, 8, 6, 6])' in result.stdout, result.stderr

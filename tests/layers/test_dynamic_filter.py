"""DynamicFilter: published numbers, and laws of filters mixed for each sample and channel."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from mmfreq.layers import DynamicFilter, StarReLU
from mmfreq.ops import apply_filter, resize_filter
from mmfreq.testing.golden import golden_inputs, golden_state, read_golden, worst_error

SIZES = ((10, 7), (9, 13), (20, 6), (1, 1))  # the stored grid first
each_backend = pytest.mark.parametrize('spectral', ['fft', 'matmul'])


def random_layer(channels=6, grid=(10, 7), **kwargs):
    """A layer in eval mode whose routing of `maps` is far from uniform."""
    layer = DynamicFilter(channels, grid, **{'routing_ratio': 0.5, **kwargs}).eval()
    layer.load_state_dict(golden_state({n: tuple(p.shape) for n, p in layer.state_dict().items()}))
    return layer


def maps(*shape):
    """NCHW samples with different means."""
    return torch.randn(*shape) + 3 * torch.randn(*shape[:2], 1, 1)


def set_routing(layer, logits):
    """Set the routing of every sample to `softmax(logits)`, logits (N, M)."""
    with torch.no_grad():
        layer.reweight.act.scale.zero_()
        layer.reweight.act.bias.fill_(1)
        layer.reweight.fc2.weight.zero_()
        layer.reweight.fc2.weight[:, 0] = logits.flatten()


def with_filters(layer, x, filters):
    """The layer's output with filters `(h, F, M, 2)` or `(h, F, 1, 2)` instead of its mixtures."""
    x_bhwc = x.permute(0, 2, 3, 1)
    y = apply_filter(layer.act1(layer.pwconv1(x_bhwc)), filters, (1, 2))
    return layer.pwconv2(y).permute(0, 3, 1, 2)


@pytest.mark.parametrize(('name', 'grid'), [('dfformer__DynamicFilter', 14), ('dfformer__DynamicFilter_fixed', (10, 7))])
@each_backend
def test_golden(name, grid, spectral, golden_folder, within_limit):
    golden = read_golden(golden_folder, name)
    layer = DynamicFilter(32, grid, spectral=spectral, channels_last=True).eval()
    assert {n: list(p.shape) for n, p in layer.state_dict().items()} == golden['state_dict']
    layer.load_state_dict(golden_state(golden['state_dict']))
    assert golden['cases']
    for case in golden['cases']:
        with torch.no_grad():
            within_limit('dfformer layers', *worst_error([layer(*golden_inputs(case))], case['outputs']))


def test_golden_resize(golden_folder, within_limit):
    (case,) = read_golden(golden_folder, 'dfformer__resize_complex_weight')['cases']
    (filters,) = golden_inputs(case)
    resized = [resize_filter(filters, (h, 2 * half - 2), 'bicubic', dims=(0, 1)) for h, half in case['target_sizes']]
    within_limit('dfformer layers', *worst_error(resized, case['outputs']))


def test_filters_are_resized_at_load_as_in_forward():
    layer, small = random_layer(grid=14), random_layer(grid=(10, 7))
    stored = small.complex_weights.detach()
    layer.load_state_dict(small.state_dict())
    torch.testing.assert_close(layer.complex_weights.detach(), resize_filter(stored, (14, 14), 'bicubic', (0, 1)), rtol=0, atol=0)


@each_backend
@pytest.mark.parametrize('size', SIZES)
def test_identity_filters_leave_the_two_linear_layers(size, spectral):
    layer = random_layer(spectral=spectral)
    with torch.no_grad():
        layer.complex_weights.copy_(torch.tensor([1.0, 0.0]).expand_as(layer.complex_weights))
    x = maps(2, 6, *size)
    want = layer.pwconv2(layer.act1(layer.pwconv1(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


@each_backend
def test_one_hot_routing_selects_a_filter_per_channel(spectral):
    layer = random_layer(num_filters=3, spectral=spectral)
    picked = torch.arange(12) * 5 % 3  # one of 3 filters for each of M = 12 channels
    set_routing(layer, 1e4 * nn.functional.one_hot(picked, 3).T)
    x = maps(2, 6, 10, 7)
    torch.testing.assert_close(layer(x), with_filters(layer, x, layer.complex_weights[:, :, picked]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', SIZES)
def test_uniform_routing_is_the_mean_filter(size):
    layer = random_layer()
    x = maps(2, 6, *size)
    before = layer(x)
    with torch.no_grad():
        layer.reweight.fc2.weight.zero_()
    mean = resize_filter(layer.complex_weights.mean(2, keepdim=True), size, 'bicubic', (0, 1), width=7)
    torch.testing.assert_close(layer(x), with_filters(layer, x, mean), rtol=1e-4, atol=1e-4)
    assert (layer(x) - before).norm() > 0.1 * before.norm()  # the routing was not uniform, so the other tests are not trivial


@torch.no_grad()
@pytest.mark.parametrize('size', SIZES)
def test_samples_are_independent(size):
    layer = random_layer()
    x = maps(2, 6, *size)
    both = layer(x)
    torch.testing.assert_close(torch.cat([layer(x[:1]), layer(x[1:])]), both, rtol=1e-4, atol=1e-5 * both.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize('size', SIZES)
def test_channels_last_is_the_same_function_of_the_same_parameters(size):
    x = maps(2, 6, *size)
    got = random_layer(channels_last=True)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    want = random_layer()(x)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6 * want.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize('size', SIZES)
def test_backends_agree(size):
    x = maps(2, 6, *size)
    want = random_layer(spectral='fft')(x)
    torch.testing.assert_close(random_layer(spectral='matmul')(x), want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize('size', SIZES)
def test_layer_commutes_with_roll(size):
    layer = random_layer()
    x = maps(2, 6, *size)
    want = layer(x).roll((3, 2), (2, 3))
    torch.testing.assert_close(layer(x.roll((3, 2), (2, 3))), want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


@pytest.mark.slow
@each_backend
@pytest.mark.parametrize('size', [(3, 4), (4, 5)])
def test_gradients_in_float64(size, spectral):
    layer = random_layer(channels=2, grid=(3, 4), num_filters=2, spectral=spectral).double()
    names, params = zip(*layer.named_parameters())
    x = maps(2, 2, *size).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *p: functional_call(layer, dict(zip(names, p)), (x,)), (x, *params))


def test_act_does_not_change_the_activation_of_the_routing():
    layer = DynamicFilter(16, 14, act=nn.GELU)
    assert isinstance(layer.act1, nn.GELU) and isinstance(layer.reweight.act, StarReLU)


def test_ratios_determine_the_widths():
    layer = DynamicFilter(16, (9, 8), num_filters=3, routing_ratio=0.125, expansion=4)
    assert layer.complex_weights.shape == (9, 5, 3, 2)
    assert layer.reweight.fc1.weight.shape == (2, 16) and layer.reweight.fc2.weight.shape == (3 * 64, 2)
    assert not [n for n, _ in layer.named_parameters() if n.endswith('.bias') and 'act' not in n]

"""Layers are chosen by name and stage; their filters, gating maps, routing and masks are what the layers compute with."""

import numpy as np
import pytest
import torch
from torch import nn

import mmfreq
from mmfreq.analysis.learned_filters import (
    PLOTS,
    choose_layers,
    gating_maps,
    learned_filters,
    matches,
    radial_gain,
    record_calls,
    routings,
    spectral_masks,
    spread,
    spread_over_groups,
)
from mmfreq.layers import AdaptiveFrequencyFilter, DynamicFilter, GlobalFilter, GnConv
from mmfreq.ops import apply_filter

GRIDS = [(8, 8), (7, 7), (6, 9), (9, 6), (1, 4), (5, 1)]


@pytest.fixture(scope='module')
def hornet():
    with torch.device('meta'):
        return mmfreq.build_classifier('hornet-tiny-gf')


@pytest.mark.parametrize(
    ('arch', 'plots'),
    [
        ('hornet-tiny-7x7', {'gating'}),
        ('hornet-micro', {'filters', 'gating'}),
        ('gfnet-h-micro', {'filters'}),
        ('dfformer-micro', {'filters', 'routing'}),
        ('affnet-micro', {'masks'}),
    ],
)
def test_plots_of_each_family(arch, plots):
    with torch.device('meta'):
        assert set(choose_layers(mmfreq.build_backbone(arch))) == plots


def test_default_is_a_few_layers_of_every_stage(hornet):
    chosen = choose_layers(hornet)
    assert list(chosen['gating'].layers) == [f'stages.{i}.{k}.gnconv' for i, k in enumerate((1, 2, 17, 1))]
    assert chosen['gating'].available == 25 and chosen['filters'].available == 20
    assert list(chosen['filters'].layers) == [f'stages.{i}.{k}.gnconv.dwconv' for i, k in ((2, 0), (2, 17), (3, 0), (3, 1))]
    assert all(isinstance(layer, PLOTS['gating'][0]) for layer in chosen['gating'].layers.values())


def test_layers_are_filtered_by_pattern_and_plot(hornet):
    assert list(choose_layers(hornet, pattern='stages.3.1')) == ['filters', 'gating']
    assert list(choose_layers(hornet, ['gating'], 'stages.3.1')['gating'].layers) == ['stages.3.1.gnconv']
    assert len(choose_layers(hornet, ['filters'], 'stages.2', most=30)['filters'].layers) == 18
    assert list(choose_layers(hornet, pattern='stages.0')) == ['gating']  # its filters are 7x7 convolutions


@pytest.mark.parametrize(
    ('pattern', 'matched'),
    [('*', True), ('a.b.0', True), ('a.b', True), ('b.0', True), ('b', True), ('a.?', True), ('b.1', False), ('a.b.', False)],
)
def test_patterns_match_whole_parts_of_names(pattern, matched):
    assert matches('a.b.0', pattern) == matched


def test_errors_list_what_is_available(hornet):
    with pytest.raises(ValueError, match=r"'stages\.9'.* stages\.2\.0\.gnconv\.dwconv, .* 33 "):
        choose_layers(hornet, pattern='stages.9')
    with pytest.raises(ValueError, match=r'HorNetClassifier .*masks .*AFFNet.* filters, gating'):
        choose_layers(hornet, ['filters', 'masks'])
    with pytest.raises(ValueError, match=r'phases.* filters, gating, routing, masks'):
        choose_layers(hornet, ['phases'])
    with pytest.raises(ValueError, match='Linear'):
        choose_layers(nn.Linear(1, 1))
    with pytest.raises(ValueError, match='at least 1'):
        choose_layers(hornet, most=0)


def test_spread_is_even_over_stages_and_within_them():
    assert spread('abcdefg', 3) == ['a', 'd', 'g'] and spread('ab', 5) == ['a', 'b']
    assert spread('abc', 1) == ['c'] and spread('a', 3) == ['a']
    names = [f's.{i}.{k}' for i in range(3) for k in range(4)]
    assert spread_over_groups(names, 2) == ['s.0.3', 's.2.3']
    assert spread_over_groups(names, 6) == ['s.0.0', 's.0.3', 's.1.0', 's.1.3', 's.2.0', 's.2.3']
    assert spread_over_groups(names, 99) == names


def layer_with(kernel, channels_last=False):
    """A global filter that convolves with `kernel` (C, h, w), whose lag zero is at [0, 0]."""
    kernel = torch.as_tensor(kernel, dtype=torch.float64)
    layer = GlobalFilter(len(kernel), tuple(kernel.shape[1:]), channels_last=channels_last).double()
    half = torch.view_as_real(torch.fft.rfft2(kernel))
    with torch.no_grad():
        layer.stored.copy_(half.movedim(0, 2) if channels_last else half)
    return layer


@pytest.mark.parametrize('grid', GRIDS)
def test_identity_has_a_delta_kernel_and_a_response_of_one(grid):
    kernel = torch.zeros(2, *grid)
    kernel[:, 0, 0] = 1
    found = learned_filters(layer_with(kernel))
    delta = np.zeros((2, *grid))
    delta[:, grid[0] // 2, grid[1] // 2] = 1
    np.testing.assert_allclose(found.kernel, delta, atol=1e-12)
    np.testing.assert_allclose(found.response, np.ones((2, *grid)), atol=1e-12)


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('grid', GRIDS)
def test_kernel_is_what_the_layer_convolves_with(grid, channels_last):
    kernel = torch.randn(3, *grid, dtype=torch.float64)
    layer = layer_with(kernel, channels_last)
    found = learned_filters(layer, 'name')
    assert found.name == 'name'
    np.testing.assert_allclose(found.kernel, np.fft.fftshift(kernel, axes=(1, 2)), atol=1e-12)
    pulse = torch.zeros(1, 3, *grid, dtype=torch.float64)
    pulse[..., 0, 0] = 1
    output = layer(pulse.movedim(1, 3)).movedim(3, 1) if channels_last else layer(pulse)
    np.testing.assert_allclose(np.fft.ifftshift(found.kernel, axes=(1, 2)), output[0].detach(), atol=1e-12)


def test_shift_has_gain_one_and_linear_phase():
    kernel = torch.zeros(1, 8, 8)
    kernel[0, 1, 3] = 1  # one down, three to the right
    found = learned_filters(layer_with(kernel))
    steps = np.arange(8) - 4
    np.testing.assert_allclose(found.gain, 1, atol=1e-12)
    linear = np.exp(-2j * np.pi * (steps[:, None] * 1 + steps * 3) / 8)
    np.testing.assert_allclose(found.response[0], linear, atol=1e-12)
    assert np.argwhere(found.kernel[0] > 0.5).tolist() == [[5, 7]]


def test_part_without_effect_on_real_maps_is_removed():
    layer = GlobalFilter(1, 8).double()
    with torch.no_grad():
        layer.stored[..., 0] = 1
        layer.stored[..., 1] = 0
        layer.stored[0, 0, 0, 1] = 5.0  # imaginary part at frequency zero, where spectra are real
    found = learned_filters(layer)
    np.testing.assert_allclose(found.response, 1, atol=1e-12)


def test_filters_are_resized_as_in_forward():
    layer = DynamicFilter(4, 6, num_filters=3).eval()
    found = learned_filters(layer, size=(10, 8))
    assert found.response.shape == found.kernel.shape == (3, 10, 8)
    stored = torch.view_as_complex(layer.filter_for((10, 8)).detach().contiguous())
    middle = np.fft.ifftshift(found.response, axes=(1, 2))[:, :, 1:4]  # neither the zero column nor Nyquist's
    np.testing.assert_allclose(middle, stored.permute(2, 0, 1)[:, :, 1:4], atol=1e-6)
    with pytest.raises(ValueError, match='at least 1x1'):
        learned_filters(layer, size=(0, 4))


def test_strongest_filters_have_the_largest_gain():
    kernel = torch.zeros(4, 4, 4)
    kernel[:, 0, 0] = torch.tensor([1.0, -4.0, 2.0, 3.0])
    assert learned_filters(layer_with(kernel)).strongest(2) == [1, 3]
    assert learned_filters(layer_with(kernel)).strongest(9) == [0, 1, 2, 3]


def test_radial_gain_is_the_mean_over_rings():
    steps = np.arange(9) - 4
    radius = np.hypot(steps[:, None], steps)
    frequency, gain = radial_gain(np.stack([np.rint(radius), np.full((9, 9), 2.0)]))
    np.testing.assert_allclose(frequency, np.arange(5) / 9)
    np.testing.assert_allclose(gain, [[0, 1, 2, 3, 4], [2] * 5])
    assert all(np.isfinite(radial_gain(np.ones((1, *grid)))[1]).all() for grid in GRIDS)


def test_record_calls_changes_nothing_and_removes_its_hooks():
    model, images = mmfreq.build_backbone('hornet-micro').eval(), torch.randn(1, 3, 64, 64)
    layers = choose_layers(model)['gating'].layers | {'absent': nn.Identity()}
    with torch.no_grad():
        unhooked = model(images)
    outputs = []
    records = record_calls(lambda: outputs.append(model(images)), layers, lambda module, x, y: (x.clone(), y.clone()))
    assert list(records) == [f'stages.{i}.{k}.gnconv' for i, k in enumerate((0, 0, 1, 0))]
    for a, b in zip(unhooked, outputs[0]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError, match='stop'):
        record_calls(lambda: (_ for _ in ()).throw(RuntimeError('stop')), layers, lambda *_: None)
    assert not any(module._forward_hooks for module in model.modules())


def test_gated_products_of_a_gnconv_with_known_weights():
    """All 1x1 convolutions copy, the spatial operator returns its bias: the products are the gate, then gate times constants."""
    layer = GnConv(4, order=2, kernel_size=3)
    gate = torch.rand(1, 4, 5, 6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.proj_in.weight[:2, :2, 0, 0] = torch.eye(2)  # the gate is the first two channels
        layer.dwconv.bias.copy_(torch.tensor([1.0, 1.0, 3.0, 3.0, 3.0, 3.0]))
        layer.pws[0].weight[:2, :, 0, 0] = torch.eye(2)
    (found,) = gating_maps(lambda: layer(gate), {'layer': layer})
    energy = gate[0, :2].square()
    assert found.name == 'layer' and len(found.maps) == 2
    np.testing.assert_allclose(found.maps[0], energy.mean(0).sqrt(), rtol=1e-5)
    np.testing.assert_allclose(found.maps[1], 3 * (energy.sum(0) / 4).sqrt(), rtol=1e-5)  # two of four channels are 0


def test_gating_maps_have_the_orders_and_grids_of_the_stages():
    model = mmfreq.build_classifier('hornet-micro').eval()
    found = gating_maps(lambda: model(torch.randn(2, 3, 64, 96)), choose_layers(model)['gating'].layers)
    assert [[m.shape for m in layer.maps] for layer in found] == [
        [(64 // s, 96 // s)] * n for s, n in zip((4, 8, 16, 32), range(2, 6))
    ]


@pytest.mark.parametrize('channels_last', [True, False])
def test_routing_is_what_the_layer_filters_with(channels_last):
    layer = DynamicFilter(8, 6, num_filters=3, routing_ratio=1, channels_last=channels_last).double().eval()
    with torch.no_grad():
        layer.reweight.fc2.weight.mul_(1000)  # makes the routing far from uniform
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64) + 1
    given = x.movedim(1, 3).contiguous() if channels_last else x
    outputs = []
    (found,) = routings(lambda: outputs.append(layer(given)), {'mixer': layer})
    assert found.name == 'mixer' and found.coefficients.shape == (3, 16)
    np.testing.assert_allclose(found.coefficients.sum(0), 1, rtol=1e-5)
    assert found.coefficients.max() > 0.5
    mixed = found.mixed(list(range(16)))
    kernel = torch.from_numpy(np.fft.ifftshift(mixed.kernel, axes=(1, 2)))
    hidden = layer.act1(layer.pwconv1(x[:1].movedim(1, 3))).movedim(3, 1)
    filtered = apply_filter(hidden, torch.view_as_real(torch.fft.rfft2(kernel)))
    expected = layer.pwconv2(filtered.movedim(1, 3)).movedim(3, 1)
    output = outputs[0][:1].movedim(3, 1) if channels_last else outputs[0][:1]
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    typical = [found.coefficients[k, channel] for k, channel in enumerate(found.typical_channels)]
    np.testing.assert_array_equal(typical, found.coefficients.max(1))


def test_mask_of_constant_weights_and_closed_mask():
    layer = AdaptiveFrequencyFilter(8, threshold=0.5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.b2[0] = 3.5  # 3 everywhere after the soft-shrink
        layer.b2[1] = 4.5  # and 4 in the imaginary part
    x = torch.randn(1, 8, 6, 7)
    (found,) = spectral_masks(lambda: layer(x), {'mask': layer})
    np.testing.assert_allclose(found.mask, np.full((8, 6, 7), 5.0), rtol=1e-6)
    full = np.fft.fftshift(np.abs(np.fft.fft2(x[0].numpy(), norm='ortho')), axes=(1, 2))
    np.testing.assert_allclose(found.spectrum, full, rtol=1e-4, atol=1e-5)
    layer.b2.data.fill_(0.4)
    (found,) = spectral_masks(lambda: layer(x), {'mask': layer})
    assert not found.mask.any()


@pytest.mark.parametrize(('size', 'act'), [((6, 8), 'silu'), ((5, 7), 'silu'), ((6, 8), 'relu')])
def test_mask_is_what_the_layer_multiplies_with(size, act):
    layer = AdaptiveFrequencyFilter(8, act=act, channels_last=True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, *size, 8)
    outputs = []
    (found,) = spectral_masks(lambda: outputs.append(layer(x)), {'mask': layer})
    change = np.abs(np.fft.fft2((outputs[0] - x)[0].detach().movedim(2, 0).numpy(), norm='ortho'))
    product = found.mask * found.spectrum
    inner = np.s_[:, :, 1 : (size[1] + 1) // 2]  # not the columns that the inverse makes Hermitian
    np.testing.assert_allclose(np.fft.ifftshift(product, axes=(1, 2))[inner], change[inner], rtol=1e-3, atol=1e-5)

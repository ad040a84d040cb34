"""What is seen of token mixers over a picture is what they compute."""

import numpy as np
import pytest
import torch

import mmfreq
from mmfreq.analysis.learned_filters import choose_layers, gating_maps, mask_of, masks_over, record_calls, routing_over
from mmfreq.layers import AdaptiveFrequencyFilter, DynamicFilter, GnConv
from mmfreq.ops import apply_filter


def test_observing_changes_nothing_and_leaves_no_hooks():
    model, images = mmfreq.build_backbone('hornet-micro').eval(), torch.randn(1, 3, 64, 64)
    layers = choose_layers(model)['gating'].layers | {'absent': torch.nn.Identity()}
    with torch.no_grad():
        alone = model(images)
    kept = []
    seen = record_calls(lambda: kept.append(model(images)), layers, lambda module, x, y: (x.clone(), y.clone()))
    assert list(seen) == [f'stages.{i}.{k}.gnconv' for i, k in enumerate((0, 0, 1, 0))]
    for a, b in zip(alone, kept[0]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError, match='stop'):
        record_calls(lambda: (_ for _ in ()).throw(RuntimeError('stop')), layers, lambda *_: None)
    assert not any(module._forward_hooks for module in model.modules())


def test_gated_products_of_a_gnconv_whose_parts_are_known():
    """All 1x1 convolutions copy, the spatial operator gives its bias: products are gate, then gate times constants."""
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


def test_gating_maps_have_the_orders_and_the_grids_of_the_stages():
    model = mmfreq.build_classifier('hornet-micro').eval()
    found = gating_maps(lambda: model(torch.randn(2, 3, 64, 96)), choose_layers(model)['gating'].layers)
    assert [[m.shape for m in layer.maps] for layer in found] == [
        [(64 // s, 96 // s)] * n for s, n in zip((4, 8, 16, 32), range(2, 6))
    ]


@pytest.mark.parametrize('channels_last', [True, False])
def test_the_routing_is_the_one_the_layer_filters_with(channels_last):
    layer = DynamicFilter(8, 6, num_filters=3, routing_ratio=1, channels_last=channels_last).double().eval()
    with torch.no_grad():
        layer.reweight.fc2.weight.mul_(1000)  # so that the routing is far from uniform
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64) + 1
    given = x.movedim(1, 3).contiguous() if channels_last else x
    outputs = []
    (found,) = routing_over(lambda: outputs.append(layer(given)), {'mixer': layer})
    assert found.name == 'mixer' and found.coefficients.shape == (3, 16)
    np.testing.assert_allclose(found.coefficients.sum(0), 1, rtol=1e-5)
    assert found.coefficients.max() > 0.5
    mixed = found.mixed(list(range(16)))
    kernel = torch.from_numpy(np.fft.ifftshift(mixed.kernel, axes=(1, 2)))
    hidden = layer.act1(layer.pwconv1(x[:1].movedim(1, 3))).movedim(3, 1)
    filtered = apply_filter(hidden, torch.view_as_real(torch.fft.rfft2(kernel)))
    again = layer.pwconv2(filtered.movedim(1, 3)).movedim(3, 1)
    output = outputs[0][:1].movedim(3, 1) if channels_last else outputs[0][:1]
    torch.testing.assert_close(output, again, rtol=1e-4, atol=1e-5)
    typical = [found.coefficients[k, channel] for k, channel in enumerate(found.typical_channels)]
    np.testing.assert_array_equal(typical, found.coefficients.max(1))


def test_a_mask_of_constants_and_a_closed_one():
    layer = AdaptiveFrequencyFilter(8, threshold=0.5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.b2[0] = 3.5  # after the soft-shrink 3 everywhere
        layer.b2[1] = 4.5  # and 4 in the imaginary part
    x = torch.randn(1, 8, 6, 7)
    spectrum, mask = mask_of(layer, x)
    np.testing.assert_allclose(mask, np.full((8, 6, 7), 5.0), rtol=1e-6)
    full = np.fft.fftshift(np.abs(np.fft.fft2(x[0].numpy(), norm='ortho')), axes=(1, 2))
    np.testing.assert_allclose(spectrum, full, rtol=1e-4, atol=1e-5)
    layer.b2.data.fill_(0.4)
    assert not mask_of(layer, x)[1].any()


@pytest.mark.parametrize('size', [(6, 8), (5, 7)])
def test_the_mask_is_the_one_the_layer_multiplies_with(size):
    layer = AdaptiveFrequencyFilter(8, channels_last=True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, *size, 8)
    outputs = []
    (found,) = masks_over(lambda: outputs.append(layer(x)), {'mask': layer})
    change = np.abs(np.fft.fft2((outputs[0] - x)[0].detach().movedim(2, 0).numpy(), norm='ortho'))
    product = found.mask * found.spectrum
    inner = np.s_[:, :, 1 : (size[1] + 1) // 2]  # not the columns that the inverse makes Hermitian
    np.testing.assert_allclose(np.fft.ifftshift(product, axes=(1, 2))[inner], change[inner], rtol=1e-3, atol=1e-5)

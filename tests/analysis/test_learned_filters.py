"""Filters of known response and known kernel are shown as what they are."""

import numpy as np
import pytest
import torch

from mmfreq.analysis.learned_filters import learned_filters, radial_gain
from mmfreq.layers import DynamicFilter, GlobalFilter

GRIDS = [(8, 8), (7, 7), (6, 9), (9, 6), (1, 4), (5, 1)]


def layer_with(kernel, channels_last=False):
    """A global filter that convolves with `kernel` (C, h, w), whose lag zero is at [0, 0]."""
    kernel = torch.as_tensor(kernel, dtype=torch.float64)
    layer = GlobalFilter(len(kernel), tuple(kernel.shape[1:]), channels_last=channels_last).double()
    half = torch.view_as_real(torch.fft.rfft2(kernel))
    with torch.no_grad():
        layer.stored.copy_(half.movedim(0, 2) if channels_last else half)
    return layer


@pytest.mark.parametrize('grid', GRIDS)
def test_the_identity_is_a_delta_in_the_middle_and_one_everywhere(grid):
    kernel = torch.zeros(2, *grid)
    kernel[:, 0, 0] = 1
    found = learned_filters(layer_with(kernel))
    delta = np.zeros((2, *grid))
    delta[:, grid[0] // 2, grid[1] // 2] = 1
    np.testing.assert_allclose(found.kernel, delta, atol=1e-12)
    np.testing.assert_allclose(found.response, np.ones((2, *grid)), atol=1e-12)


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('grid', GRIDS)
def test_a_kernel_comes_back_and_is_what_the_layer_convolves_with(grid, channels_last):
    kernel = torch.randn(3, *grid, dtype=torch.float64)
    layer = layer_with(kernel, channels_last)
    found = learned_filters(layer, 'name')
    assert found.name == 'name'
    np.testing.assert_allclose(found.kernel, np.fft.fftshift(kernel, axes=(1, 2)), atol=1e-12)
    pulse = torch.zeros(1, 3, *grid, dtype=torch.float64)
    pulse[..., 0, 0] = 1
    answer = layer(pulse.movedim(1, 3)).movedim(3, 1) if channels_last else layer(pulse)
    np.testing.assert_allclose(np.fft.ifftshift(found.kernel, axes=(1, 2)), answer[0].detach(), atol=1e-12)


def test_a_shift_has_gain_one_and_a_linear_phase():
    kernel = torch.zeros(1, 8, 8)
    kernel[0, 1, 3] = 1  # one down, three to the right
    found = learned_filters(layer_with(kernel))
    steps = np.arange(8) - 4
    np.testing.assert_allclose(found.gain, 1, atol=1e-12)
    linear = np.exp(-2j * np.pi * (steps[:, None] * 1 + steps * 3) / 8)
    np.testing.assert_allclose(found.response[0], linear, atol=1e-12)
    assert np.argwhere(found.kernel[0] > 0.5).tolist() == [[5, 7]]


def test_what_no_real_map_can_tell_is_left_out():
    layer = GlobalFilter(1, 8).double()
    with torch.no_grad():
        layer.stored[..., 0] = 1
        layer.stored[..., 1] = 0
        layer.stored[0, 0, 0, 1] = 5.0  # of the zero frequency, which is real
    found = learned_filters(layer)
    np.testing.assert_allclose(found.response, 1, atol=1e-12)


def test_another_size_is_resized_as_in_forward():
    layer = DynamicFilter(4, 6, num_filters=3).eval()
    found = learned_filters(layer, size=(10, 8))
    assert found.response.shape == found.kernel.shape == (3, 10, 8)
    stored = torch.view_as_complex(layer.filter_for((10, 8)).detach().contiguous())
    middle = np.fft.ifftshift(found.response, axes=(1, 2))[:, :, 1:4]  # neither the zero column nor Nyquist's
    np.testing.assert_allclose(middle, stored.permute(2, 0, 1)[:, :, 1:4], atol=1e-6)
    with pytest.raises(ValueError, match='at least 1x1'):
        learned_filters(layer, size=(0, 4))


def test_the_strongest_filters_are_those_of_the_largest_gain():
    kernel = torch.zeros(4, 4, 4)
    kernel[:, 0, 0] = torch.tensor([1.0, -4.0, 2.0, 3.0])
    assert learned_filters(layer_with(kernel)).strongest(2) == [1, 3]
    assert learned_filters(layer_with(kernel)).strongest(9) == [0, 1, 2, 3]


def test_radial_gain_of_rings():
    steps = np.arange(9) - 4
    radius = np.hypot(steps[:, None], steps)
    frequency, gain = radial_gain(np.stack([np.rint(radius), np.full((9, 9), 2.0)]))
    np.testing.assert_allclose(frequency, np.arange(5) / 9)
    np.testing.assert_allclose(gain, [[0, 1, 2, 3, 4], [2] * 5])
    assert all(np.isfinite(radial_gain(np.ones((1, *grid)))[1]).all() for grid in GRIDS)

"""Figures of filters and routing contain the right numbers."""

import numpy as np

from mmfreq.analysis.draw_layers import cropped, plot_filters, plot_routing
from mmfreq.analysis.learned_filters import LearnedFilters, Routing

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (64, 96, 3), np.uint8)
NAME = 'backbone.stages.2.17.gnconv.dwconv'


def random_filters(count=6, grid=(14, 14)):
    kernel = RNG.normal(size=(count, *grid))
    return LearnedFilters(NAME, np.fft.fftshift(np.fft.fft2(kernel), axes=(1, 2)), kernel)


def test_figure_of_filters_contains_their_gain_phase_and_kernel():
    filters = random_filters()
    figure = plot_filters(filters, [4], 'hornet')
    assert figure.get_suptitle() == f'hornet\n{NAME}: the 1 strongest of 6 filters, on a 14 x 14 grid'
    images = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert any(np.array_equal(image, filters.gain[4]) for image in images)
    assert any(np.array_equal(image, filters.kernel[4]) for image in images)
    assert any(np.ma.allclose(image, np.angle(filters.response[4])) for image in images)
    assert any(np.array_equal(image, filters.gain.mean(0)) for image in images)


def test_gain_profile_ends_at_the_highest_frequency():
    axes = plot_filters(random_filters(), [4], 'hornet').axes
    profile = next(axis for axis in axes if axis.get_title() == 'gain over frequency')
    (line,) = profile.lines
    assert profile.get_xlim() == (0, line.get_xdata().max()) and line.get_xdata().max() < 1


def test_every_row_of_a_routing_has_a_unit():
    figure = plot_routing(Routing(RNG.dirichlet([1] * 4, 64).T, random_filters(4)), IMAGE, 'dfformer')
    labels = [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()]
    assert [label.split(',')[0] for label in labels] == ['horizontal', 'the 64 channels', 'horizontal']


def test_cropped_keeps_the_origin_in_the_center():
    values = np.zeros((40, 51))
    values[20, 25] = 1
    assert cropped(values, 31).shape == (31, 31) and cropped(values, 31)[15, 15] == 1
    assert cropped(values[:14], 31).shape == (14, 31)

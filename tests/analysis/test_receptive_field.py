"""Receptive fields of models with known fields, and squares of small maps."""

import numpy as np
import pytest
import torch
from torch import nn

import mmfreq
from mmfreq.analysis.receptive_field import SHARES, ReceptiveField, block_means, feature_map, receptive_field
from mmfreq.layers import GlobalFilter


def conv(weight, **options):
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False, **options)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def test_field_of_one_convolution_is_its_weights():
    weight = torch.rand(1, 3, 3, 5)
    images = torch.rand(2, 3, 9, 11)  # positive, so that the gradient passes the ReLU
    found = receptive_field(conv(weight, padding=(1, 2)), images).contribution
    expected = np.zeros((9, 11))
    expected[3:6, 3:8] = weight[0].sum(0) / weight.sum()
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_negative_gradients_and_outputs_do_not_contribute():
    weight = torch.tensor([[[[1.0, -1.0, 2.0]]], [[[-3.0, -3.0, -3.0]]]])  # the second channel is negative everywhere
    images = torch.ones(1, 1, 1, 5)
    images[..., 2] = 0.5
    found = receptive_field(conv(weight, padding=(0, 1)), images).contribution
    np.testing.assert_allclose(found, [[0, 1 / 3, 0, 2 / 3, 0]], atol=1e-7)


def test_images_are_averaged_by_their_gradients():
    """Of x^2 the gradient is 2 x."""
    images = torch.zeros(2, 1, 5, 5)
    images[0, 0, 2, 2], images[1, 0, 2, 3] = 1.0, 3.0
    found = receptive_field(lambda x: conv(torch.ones(1, 1, 3, 3), padding=1)(x**2), images).contribution
    assert found[2, 2] == pytest.approx(0.25) and found[2, 3] == pytest.approx(0.75)


def test_center_of_a_strided_convolution_is_the_center_of_its_patch():
    field = receptive_field(conv(torch.ones(1, 1, 4, 4), stride=4), torch.rand(1, 1, 16, 16))
    assert field.center == (9.5, 9.5)  # output 2 of 4: pixels 8 to 11
    assert field.smallest_square(0.99) == (4, 16 / 256)
    assert field.smallest_square(0.2) == (2, 4 / 256)


def test_field_of_a_global_filter_is_everything_and_of_the_identity_one_pixel():
    layer = GlobalFilter(1, 8)
    with torch.no_grad():
        layer.stored.copy_(torch.tensor([1.0, 0.0]).expand_as(layer.stored))
    images = torch.rand(1, 1, 8, 8) + 1
    assert receptive_field(layer, images).contribution[4, 4] == pytest.approx(1)
    kernel = torch.rand(1, 8, 8)
    with torch.no_grad():
        layer.stored.copy_(torch.view_as_real(torch.fft.rfft2(kernel)))
    assert (receptive_field(layer, images).contribution > 0).all()


def test_squares_of_a_uniform_map():
    field = ReceptiveField(np.full((9, 9), 1 / 81))
    side, area, inside = field.squares()
    assert field.center == (4, 4)
    np.testing.assert_array_equal(side, [1, 3, 5, 7, 9])
    np.testing.assert_allclose(area, side**2 / 81)
    np.testing.assert_allclose(inside, area)
    assert [field.smallest_square(share)[0] for share in SHARES] == [5, 7, 9, 9]


def test_squares_are_clipped_to_the_image_and_centered_on_the_contribution():
    contribution = np.zeros((6, 10))
    contribution[1, 8] = 1.0
    field = ReceptiveField(contribution)
    assert field.center == (1, 8) and field.smallest_square(0.99) == (1, 1 / 60)
    side, area, inside = field.squares()
    assert area[-1] == 1 and inside[0] == 1 and side[-1] == 17  # reaches the left border
    assert area[2] == pytest.approx(4 * 4 / 60)  # 5 x 5, clipped by one row and one column


def test_larger_share_never_has_a_smaller_square():
    field = ReceptiveField(np.random.default_rng(0).random((13, 20)))
    areas = [field.smallest_square(share)[1] for share in np.linspace(0.01, 1, 50)]
    assert areas == sorted(areas) and areas[-1] <= 1


@pytest.mark.parametrize('arch', ['hornet-micro', 'gfnet-micro', 'affnet-micro'])
def test_feature_map_returns_stages_of_backbones_and_classifiers(arch):
    images = torch.rand(1, 3, 64, 64)
    backbone = mmfreq.build_backbone(arch).eval()
    maps = backbone.forward_stages(images)
    torch.testing.assert_close(feature_map(backbone)(images), maps[-1])
    torch.testing.assert_close(feature_map(backbone, 1)(images), maps[1])
    assert receptive_field(feature_map(mmfreq.build_classifier(arch).eval(), 0), images).contribution.shape == (64, 64)
    with pytest.raises(ValueError, match='has 4 stages, 0 to 3; got stage 4'):
        feature_map(backbone, 4)(images)


def test_model_without_contributions_is_rejected():
    with pytest.raises(ValueError, match='no pixel with a finite contribution'):
        receptive_field(conv(torch.zeros(1, 3, 3, 3)), torch.rand(1, 3, 9, 9))


def test_block_means_at_borders_and_of_single_pixels():
    values = np.arange(15.0).reshape(3, 5)
    np.testing.assert_allclose(block_means(values, 2), [[3, 5, 6.5], [10.5, 12.5, 14]])
    np.testing.assert_array_equal(block_means(values, 1), values)

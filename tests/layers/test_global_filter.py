"""GlobalFilter: resizing in forward and at load, errors."""

import pytest
import torch

from mmfreq.layers import GlobalFilter
from mmfreq.ops import apply_filter, resize_filter


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return GlobalFilter(4, 14).eval()


def test_forward_applies_the_resized_filter(layer):
    x = torch.randn(2, 4, 9, 12)
    want = apply_filter(x, resize_filter(layer.complex_weight, (9, 12), 'bilinear'))
    torch.testing.assert_close(layer(x), want, rtol=0, atol=0)


def test_channels_last_is_the_same_function(layer):
    other = GlobalFilter(4, 14, channels_last=True)
    assert other.complex_weight.shape == (14, 8, 4, 2)
    other.complex_weight.data = layer.complex_weight.detach().permute(1, 2, 0, 3).contiguous()
    x = torch.randn(2, 4, 10, 13)
    torch.testing.assert_close(other(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), layer(x))


@torch.no_grad()
def test_resized_filter_follows_the_weights(layer):
    """Also after writes through `.data`, as weight averaging does."""
    first = layer.filter_for((9, 12))
    layer.complex_weight.data.mul_(3)
    torch.testing.assert_close(layer.filter_for((9, 12)), 3 * first)


def test_policy_none_accepts_the_stored_size_only():
    layer = GlobalFilter(4, 14, filter_resize='none')
    assert layer(torch.randn(1, 4, 14, 14)).shape == (1, 4, 14, 14)
    with pytest.raises(ValueError, match='maps of 14x14 only, got 9x12'):
        layer(torch.randn(1, 4, 9, 12))


def test_filters_of_other_grids_are_resized_at_load(layer):
    stored = torch.randn(4, 7, 4, 2)
    layer.load_state_dict({'complex_weight': stored})
    torch.testing.assert_close(layer.complex_weight.data, resize_filter(stored, (14, 14), 'bilinear'))


def test_filters_of_other_channels_raise(layer):
    with pytest.raises(RuntimeError, match='size mismatch'):
        layer.load_state_dict({'complex_weight': torch.randn(5, 14, 8, 2)})


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match='nearest'):
        GlobalFilter(4, 14, filter_resize='nearest')
    with pytest.raises(ValueError, match='cufft'):
        GlobalFilter(4, 14, spectral='cufft')
    with pytest.raises(ValueError, match='0x0'):
        GlobalFilter(4, 0)

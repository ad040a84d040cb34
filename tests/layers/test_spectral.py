"""GlobalFilter: resizing, its cache, and loading of filters of other grids."""

import copy
import pickle

import pytest
import torch

from mmfreq.layers import GlobalFilter
from mmfreq.layers.eval_cache import CACHED_VALUES
from mmfreq.ops import apply_filter, resize_filter


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return GlobalFilter(4, 14).eval()


def test_forward_is_the_operator_on_the_resized_filter(layer):
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
def test_cache_hits_and_is_dropped_when_the_parameter_changes(layer):
    kept = layer.filter_for((9, 12))
    assert layer.filter_for((9, 12)) is kept
    layer.complex_weight.mul_(2)
    torch.testing.assert_close(layer.filter_for((9, 12)), 2 * kept)
    layer.load_state_dict({'complex_weight': torch.zeros(4, 14, 8, 2)})
    assert layer.filter_for((9, 12)).abs().max() == 0
    layer.complex_weight.data = torch.ones(4, 14, 8, 2)
    assert layer.filter_for((9, 12)).min() == 1


@torch.no_grad()
def test_mode_changes_drop_the_cache_so_that_averaged_weights_swapped_in_are_seen(layer):
    kept = layer.filter_for((9, 12))
    layer.complex_weight.data.mul_(3)  # as mmengine's EMAHook swaps, unseen by the version counter
    layer.eval()
    torch.testing.assert_close(layer.filter_for((9, 12)), 3 * kept)


def test_no_cache_where_gradients_are_wanted(layer):
    with torch.no_grad():
        layer(torch.randn(1, 4, 9, 12))
    layer(torch.randn(1, 4, 9, 12)).sum().backward()
    assert layer.complex_weight.grad.abs().sum() > 0
    layer.train()
    with torch.no_grad():
        layer(torch.randn(1, 4, 9, 12))
    assert not layer._resized


@torch.no_grad()
def test_cache_is_bounded_and_no_part_of_state_copies_or_pickles(layer):
    for side in range(5, 5 + 2 * CACHED_VALUES):
        layer(torch.randn(1, 4, side, side))
    assert len(layer._resized) == CACHED_VALUES
    assert list(layer.state_dict()) == ['complex_weight']
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert not twin._resized
        torch.testing.assert_close(twin(torch.ones(1, 4, 6, 6)), layer(torch.ones(1, 4, 6, 6)))


def test_inference_mode_then_training(layer):
    x = torch.randn(1, 4, 9, 12)
    with torch.inference_mode():
        layer(x)
    with torch.no_grad():
        layer(x)
    layer(x).sum().backward()
    assert layer.complex_weight.grad is not None


def test_filters_of_other_grids_are_resized_at_load(layer):
    stored = torch.randn(4, 7, 4, 2)
    layer.load_state_dict({'complex_weight': stored})
    torch.testing.assert_close(layer.complex_weight.data, resize_filter(stored, (14, 14), 'bilinear'))


def test_filters_of_other_channels_are_refused(layer):
    with pytest.raises(RuntimeError, match='size mismatch'):
        layer.load_state_dict({'complex_weight': torch.randn(5, 14, 8, 2)})


def test_bad_arguments_are_told():
    with pytest.raises(ValueError, match='nearest'):
        GlobalFilter(4, 14, filter_resize='nearest')
    with pytest.raises(ValueError, match='cufft'):
        GlobalFilter(4, 14, spectral='cufft')
    with pytest.raises(ValueError, match='0x0'):
        GlobalFilter(4, 0)

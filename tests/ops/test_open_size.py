"""Matrices made from a size equal torch's operators, and the open-size path of resizing equals the eager one at every size."""

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from mmfreq.ops import open_size, resize_filter, resize_tokens, spectral
from mmfreq.ops.resize import _resize_to_open, _resize_tokens_to_open

SIDES = (1, 2, 3, 5, 7, 14, 15, 31, 64, 127)
TO = (torch.float32, torch.device('cpu'))
EXACT = (torch.float64, torch.device('cpu'))


def assert_close(actual, expected, tolerance=1e-5):
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= tolerance * max(float(expected.abs().max()), 1.0)


@pytest.mark.parametrize('side', (*SIDES, 512, 1000))
def test_bases_in_float32_equal_those_computed_in_float64(side):
    half = side // 2 + 1
    for got, rows, columns in (
        (open_size.cos_sin(side, *TO), side, side),
        (open_size.half_cos_sin(side, *TO), side, half),
    ):
        for actual, expected in zip(got, spectral.cos_sin(rows, columns, side, *TO), strict=True):
            assert_close(actual, expected, 1e-6)
    for actual, expected in zip(open_size.inverse_half_cos_sin(side, *TO), spectral.inverse_half_basis(side, *TO), strict=True):
        assert_close(actual, expected, 1e-6)
    assert torch.equal(open_size.multiplicity(side, *TO), spectral.multiplicity(side, *TO))


@pytest.mark.parametrize('stored', (1, 2, 5, 14))
@pytest.mark.parametrize(('mode', 'align_corners'), [('bilinear', True), ('bicubic', True), ('bicubic', False)])
def test_interpolation_equals_that_of_torch(stored, mode, align_corners):
    values = torch.randn(1, 3, stored, stored, dtype=torch.float64, generator=torch.Generator().manual_seed(stored))
    for height in SIDES:
        width = 2 * height + 1
        expected = interpolate(values, (height, width), mode=mode, align_corners=align_corners)
        rows, columns = (open_size.interpolation(stored, n, mode, align_corners, *EXACT) for n in (height, width))
        assert_close(rows @ values @ columns.t(), expected, 1e-12)


@pytest.mark.parametrize('bins', (1, 2, 3, 6, 7))
def test_pooling_equals_that_of_torch(bins):
    for height in SIDES:
        width = height + 4
        x = torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height))
        pooled = open_size.pooling(bins, height, *EXACT) @ x @ open_size.pooling(bins + 1, width, *EXACT).t()
        assert_close(pooled, adaptive_avg_pool2d(x, (bins, bins + 1)), 1e-12)


@pytest.mark.parametrize('policy', ['bilinear', 'bicubic', 'kernel', 'modes'])
@pytest.mark.parametrize('stored', [(6, 6), (7, 7), (4, 9), (1, 1)])
def test_filters_resized_by_matrices_equal_those_resized_eagerly(policy, stored):
    weight = torch.randn(3, stored[0], stored[1] // 2 + 1, 2, generator=torch.Generator().manual_seed(1))
    for size in ((1, 1), (2, 5), (3, 4), (6, 7), (7, 6), (12, 13), (13, 8), (40, 33)):
        if size == stored:
            continue
        expected = resize_filter(weight, size, policy, (1, 2), stored[1])
        assert_close(_resize_to_open(weight, stored, size, policy, (1, 2)), expected)


def test_positions_resized_by_matrices_equal_those_resized_eagerly():
    tokens = torch.randn(1, 36, 5, generator=torch.Generator().manual_seed(1))
    for size in ((1, 1), (2, 9), (6, 7), (20, 13)):
        assert_close(_resize_tokens_to_open(tokens, 6, size), resize_tokens(tokens, size))


def test_half_precision_filters_are_resized_in_float32():
    weight = torch.randn(3, 6, 4, 2)
    expected = _resize_to_open(weight.half().float(), (6, 6), (9, 11), 'bicubic', (1, 2))
    got = _resize_to_open(weight.half(), (6, 6), (9, 11), 'bicubic', (1, 2))
    assert got.dtype == torch.float32 and torch.equal(got, expected)
    assert _resize_tokens_to_open(torch.randn(1, 36, 5).half(), 6, (4, 5)).dtype == torch.float16


def test_matrices_are_computed_once_for_each_size_within_the_context():
    with open_size.shared_matrices() as known:
        basis = open_size.cos_sin(8, *TO)
        assert open_size.cos_sin(8, *TO) is basis
        assert open_size.cos_sin(9, *TO) is not basis
        assert open_size.cos_sin(8, *EXACT) is not basis
        known.clear()
        assert open_size.cos_sin(8, *TO) is not basis
    assert open_size.cos_sin(8, *TO) is not open_size.cos_sin(8, *TO)


def exported(module, *inputs):
    axes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    return torch.export.export(module, inputs, dynamic_shapes=(axes,)).module()


class Filtered(torch.nn.Module):
    def __init__(self, policy):
        super().__init__()
        self.policy = policy
        self.weight = torch.nn.Parameter(torch.randn(3, 6, 4, 2, generator=torch.Generator().manual_seed(1)))

    def forward(self, x):
        return spectral.apply_filter(x, resize_filter(self.weight, x.shape[2:], self.policy, (1, 2)), backend='matmul')


@pytest.mark.parametrize('policy', ['bilinear', 'kernel'])
def test_a_program_with_open_size_equals_the_module(policy):
    module = Filtered(policy)
    program = exported(module, torch.randn(1, 3, 11, 13))
    for size in ((6, 6), (1, 5), (8, 7), (33, 20)):  # (6, 6) is the stored grid
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert_close(program(x), module(x))


def test_policy_none_is_refused_for_an_open_size():
    with pytest.raises(ValueError, match=r"'none' takes maps of 6x6 only, but the size of the images is open.*Export for one size"):
        exported(Filtered('none'), torch.randn(1, 3, 11, 13))

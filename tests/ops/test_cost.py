"""The formulas against hand-computed numbers."""

import pytest

from mmfreq.ops import cost


def test_transforms_of_eight_by_eight():
    # real rows: 8 of 8 log2 8 = 24; complex columns: 5 of 2 * 8 log2 8 = 48
    assert cost.rfft_cost(8) == 24 and cost.fft_cost(8) == 48
    assert cost.rfft2_cost(8, 8) == 8 * 24 + 5 * 48 == 432
    # (8, 8) x (8, 5) twice; (8, 8) x (8, 5) four times
    assert cost.matmul_dft_cost(8, 8) == 6 * 8 * 8 * 5 == 1920
    assert cost.filter_product_cost(8, 8) == 4 * 40
    assert cost.published_fft_cost(8, 8) == 64 * 6 and cost.published_fft_cost(7, 7, 3) == 3 * 49 * 6


def test_height_and_width_are_not_interchangeable():
    # 4 x 16: 4 rows of 64, 9 columns of 16; 16 x 4: 16 rows of 8, 3 columns of 128
    assert cost.rfft2_cost(4, 16) == 4 * 64 + 9 * 16
    assert cost.rfft2_cost(16, 4) == 16 * 8 + 3 * 128


@pytest.mark.parametrize('side', [32, 128, 1024])
def test_large_grids_approach_the_count_of_gfnets_author(side):
    """HW/4 log2(HW) complex products, four multiply-adds each, plus one column that could be packed."""
    reference = side * side / 4 * cost.log2(side * side) * 4
    assert reference < cost.rfft2_cost(side, side) == pytest.approx(reference + cost.fft_cost(side))
    assert cost.published_fft_cost(side, side) == reference


def test_layers():
    # 3 channels of 8 x 8: 2 * 432 for the transforms, 160 for the product
    assert cost.global_filter_cost(3, 8, 8) == 3 * (864 + 160)
    assert cost.global_filter_cost(3, 8, 8, 'matmul') == 3 * (3840 + 160)
    # C 8, hidden 2, N 4, M 16: MLP 8 * 2 + 2 * 64, mixing 40 frequencies x 16 x 4 x (re, im)
    assert cost.routing_cost(8, 2, 4, 16) == 144
    assert cost.filter_mixing_cost(4, 16, 8, 8) == 5120
    assert cost.dynamic_filter_cost(8, 2, 4, 16, 8, 8) == 2 * 64 * 8 * 16 + 144 + 5120 + 16 * 1024
    # C 16, 8 blocks of 2: two layers of 8 * 2 * 2 complex products at 40 frequencies
    assert cost.block_mlp_cost(16, 8, 8, 8) == 2 * 32 * 40 * 4


def test_published_count_of_affnets_profiler():
    # AFFNet-ET, layer_3 at 256: C 64 on 32 x 32: 64 * 64 * 4 / 8 = 2048 weights; int(ln 1024) = 6
    assert cost.published_adaptive_filter_cost(64, 8, 32, 32) == 2048 * 1024 + 5 * 1024 * 6 * 64

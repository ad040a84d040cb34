"""Laws of the block-diagonal complex MLP."""

import pytest
import torch
from torch.nn.functional import silu

from mmfreq.ops import block_mlp, soft_shrink
from mmfreq.ops.complex import block_linear as stacked_block_linear


def block_linear(re, im, weight, bias):
    """Of separate real and imaginary parts `(B, K, I, H, F)`."""
    out = stacked_block_linear(torch.cat((re, im), 2).flatten(3), weight, bias)
    return out.unflatten(3, re.shape[3:]).chunk(2, 2)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def linear(blocks, inputs, outputs):
    """A weight and a bias."""
    return random(2, blocks, inputs, outputs), random(2, blocks, outputs)


@pytest.mark.parametrize('blocks,inputs,outputs', [(1, 1, 1), (8, 4, 4), (3, 2, 5), (2, 5, 2)])
@pytest.mark.parametrize('grid', [(3, 4), (1, 1), (5, 1)])
def test_block_linear_is_a_complex_product(blocks, inputs, outputs, grid):
    re, im = random(2, blocks, inputs, *grid), random(2, blocks, inputs, *grid)
    weight, bias = linear(blocks, inputs, outputs)
    want = torch.einsum('bkihf,kio->bkohf', torch.complex(re, im), torch.complex(*weight))
    want = want + torch.complex(*bias)[:, :, None, None]
    torch.testing.assert_close(torch.complex(*block_linear(re, im, weight, bias)), want, rtol=1e-12, atol=1e-12)


def test_block_linear_by_hand():
    one = torch.ones(1, 1, 1, 1, 1)
    weight, bias = torch.tensor([3.0, 4.0]).view(2, 1, 1, 1), torch.tensor([0.5, -1.0]).view(2, 1, 1)
    re, im = block_linear(one, 2 * one, weight, bias)
    assert (re.item(), im.item()) == (-4.5, 9.0)  # (1 + 2i)(3 + 4i) + (0.5 - i)


def test_weight_maps_row_to_column():
    re = torch.zeros(1, 1, 2, 1, 1)
    re[0, 0, 0] = 1
    weight = torch.zeros(2, 1, 2, 2)
    weight[0, 0, 0, 1] = 7
    out, _ = block_linear(re, torch.zeros_like(re), weight, torch.zeros(2, 1, 2))
    assert out.flatten().tolist() == [0, 7]


def test_blocks_are_contiguous_and_independent():
    spectrum, first, second = (random(1, 6, 2, 3), random(1, 6, 2, 3)), linear(3, 2, 2), linear(3, 2, 2)
    before = block_mlp(*spectrum, first, second, silu, 0.01)
    spectrum[1][:, 2] += 1  # the first channel of the second block
    after = block_mlp(*spectrum, first, second, silu, 0.01)
    changed = {c for a, b in zip(before, after) for c in range(6) if not torch.equal(a[:, c], b[:, c])}
    assert changed == {2, 3}


def test_frequencies_are_independent():
    spectrum, layers = (random(2, 4, 3, 5), random(2, 4, 3, 5)), (linear(2, 2, 2), linear(2, 2, 2))
    shift = dict(shifts=(1, 2), dims=(-2, -1))
    moved = block_mlp(*(part.roll(**shift) for part in spectrum), *layers, silu, 0.01)
    for got, want in zip(moved, block_mlp(*spectrum, *layers, silu, 0.01)):
        torch.testing.assert_close(got, want.roll(**shift), rtol=1e-12, atol=1e-12)


def test_block_mlp_is_two_layers_with_activation_and_soft_shrink():
    spectrum, first, second = (random(1, 6, 2, 3), random(1, 6, 2, 3)), linear(2, 3, 3), linear(2, 3, 3)
    hidden = block_linear(*(part.unflatten(1, (2, 3)) for part in spectrum), *first)
    out = block_linear(*(silu(part) for part in hidden), *second)
    for got, want in zip(block_mlp(*spectrum, first, second, silu, 0.3), out):
        want = want.flatten(1, 2)
        torch.testing.assert_close(got, want.sign() * (want.abs() - 0.3).clamp(min=0), rtol=1e-12, atol=1e-12)


def test_zero_weights_leave_the_soft_shrunk_biases():
    spectrum, nothing = (random(1, 4, 2, 3), random(1, 4, 2, 3)), torch.zeros(2, 2, 2, 2, dtype=torch.float64)
    bias = torch.tensor([[[1.0, -1.0], [0.25, -0.25]], [[0.5, 0.75], [-3.0, 0.0]]], dtype=torch.float64)
    re, im = block_mlp(*spectrum, (nothing, bias.flip(0)), (nothing, bias), silu, 0.5)
    assert re.amin((0, 2, 3)).tolist() == re.amax((0, 2, 3)).tolist() == [0.5, -0.5, 0, 0]
    assert im.amin((0, 2, 3)).tolist() == im.amax((0, 2, 3)).tolist() == [0, 0.25, -2.5, 0]


def test_soft_shrink_pulls_towards_zero():
    values = torch.tensor([-2.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0])
    assert soft_shrink(values, 0.5).tolist() == [-1.5, 0, 0, 0, 0, 0, 1.5]


def test_exact_gradients():
    def mlp(re, im, w1, b1, w2, b2):
        return block_mlp(re, im, (w1, b1), (w2, b2), silu, 0.01)

    inputs = (random(1, 4, 2, 3), random(1, 4, 2, 3), *linear(2, 2, 3), *linear(2, 3, 2))
    assert torch.autograd.gradcheck(mlp, [x.clone().requires_grad_() for x in inputs])

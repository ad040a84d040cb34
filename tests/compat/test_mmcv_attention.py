"""Multi-scale deformable attention through mmcv's autograd function, on the replacement of the compiled op."""

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

from mmfreq.compat.finder import using_fallback

SHAPES = torch.tensor([[4, 5], [2, 3]])
START = torch.tensor([0, 20])
pytestmark = pytest.mark.skipif(not using_fallback(), reason='compiled mmcv has this op for CUDA only')


@pytest.fixture
def inputs():
    """Value (B, keys, heads, C), locations (B, queries, heads, levels, points, 2), weights without the last axis."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    return random(2, 26, 2, 3), random(2, 4, 2, 2, 3, 2), random(2, 4, 2, 2, 3)


def slow_attention(value, locations, weights):
    """A sum over levels and points of bilinear samples, zero outside; a location of 0 or 1 is the map's outer edge."""
    batch, queries, heads, levels, points, _ = locations.shape
    out = value.new_zeros(batch, queries, heads, value.shape[-1])
    for b, q, h, level, p in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads, levels, points))).tolist():
        height, width = SHAPES[level].tolist()
        plane = value[b, START[level] : START[level] + height * width, h].view(height, width, -1)
        x, y = (locations[b, q, h, level, p] * torch.tensor([width, height]) - 0.5).tolist()
        for row in range(height):
            for column in range(width):
                near = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
                out[b, q, h] += weights[b, q, h, level, p] * near * plane[row, column]
    return out.flatten(2)


def attend(value, locations, weights):
    return MultiScaleDeformableAttnFunction.apply(value, SHAPES, START, locations, weights, 64)


def test_attention_is_a_weighted_sum_of_samples(inputs):
    torch.testing.assert_close(attend(*inputs), slow_attention(*inputs), rtol=1e-10, atol=1e-10)


def test_gradients(inputs):
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)
    assert torch.autograd.gradcheck(attend, inputs, fast_mode=True)


def test_16_bit_values_come_back_in_their_type(inputs):
    value = inputs[0].bfloat16().requires_grad_()
    out = attend(value, inputs[1].float(), inputs[2].float())
    out.sum().backward()
    assert out.dtype == value.grad.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), slow_attention(*inputs), rtol=2e-2, atol=2e-2)

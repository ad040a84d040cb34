"""Deformable convolutions through `mmcv.ops` against explicit samples.

Shapes: input (B, C, H, W), weight (O, C / groups, kh, kw), offset (B, G * kh * kw * 2, h, w) with (y, x) innermost, mask
(B, G * kh * kw, h, w); G deformable groups.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack, deform_conv2d, modulated_deform_conv2d

GEOMETRIES = [  # stride, padding, dilation, groups, deformable groups
    (1, 1, 1, 1, 1),
    ((2, 1), (1, 2), (1, 2), 1, 2),
    (1, (2, 1), (2, 1), 2, 1),
    (2, 0, 1, 2, 2),
]


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def sample(plane, y, x):
    """Bilinear sample of (C, H, W), zero outside."""
    total, top, left = plane.new_zeros(len(plane)), math.floor(y), math.floor(x)
    for row, wy in ((top, top + 1 - y), (top + 1, y - top)):
        for column, wx in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < plane.shape[1] and 0 <= column < plane.shape[2]:
                total = total + wy * wx * plane[:, row, column]
    return total


def slow_deform_conv(input, offset, mask, weight, stride, padding, dilation, groups, deform_groups):
    """The columns sample by sample, then one matrix product for each group."""
    (batch, channels), (out, _, kh, kw), (h, w) = input.shape[:2], weight.shape, offset.shape[2:]
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    offset = offset.view(batch, deform_groups, kh * kw, 2, h, w)
    mask = mask.view(batch, deform_groups, kh * kw, h, w)
    columns = input.new_zeros(batch, channels, kh * kw, h, w)
    size = channels // deform_groups
    for b in range(batch):
        for g in range(deform_groups):
            part = slice(g * size, (g + 1) * size)
            for k in range(kh * kw):
                for i in range(h):
                    for j in range(w):
                        y = i * stride[0] - padding[0] + k // kw * dilation[0] + offset[b, g, k, 0, i, j].item()
                        x = j * stride[1] - padding[1] + k % kw * dilation[1] + offset[b, g, k, 1, i, j].item()
                        columns[b, part, k, i, j] = mask[b, g, k, i, j] * sample(input[b, part], y, x)
    columns = columns.view(batch, groups, -1, h, w)
    return torch.einsum('bgchw,goc->bgohw', columns, weight.view(groups, out // groups, -1)).reshape(batch, out, h, w)


def tensors(geometry, height=5, width=6, channels=4, out=4, kernel=(3, 2), spread=1.0):
    """Input, offset, mask and weight in float64 that fit the geometry."""
    stride, padding, dilation, groups, deform_groups = geometry
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    h, w = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip((height, width), pair(padding), pair(dilation), kernel, pair(stride))
    )
    taps = deform_groups * kernel[0] * kernel[1]
    input, weight = random(2, channels, height, width), random(out, channels // groups, *kernel)
    return input, random(2, taps * 2, h, w) * spread, random(2, taps, h, w).sigmoid(), weight


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_deform_conv_is_a_product_with_displaced_samples(geometry):
    input, offset, mask, weight = tensors(geometry)
    got = deform_conv2d(input, offset, weight, *geometry)
    expected = slow_deform_conv(input, offset, torch.ones_like(mask), weight, *geometry)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_modulated_deform_conv_scales_the_samples_and_adds_the_bias(geometry):
    input, offset, mask, weight = tensors(geometry)
    bias = torch.arange(4.0, dtype=torch.float64)
    got = modulated_deform_conv2d(input, offset, mask, weight, bias, *geometry)
    expected = slow_deform_conv(input, offset, mask, weight, *geometry) + bias[:, None, None]
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    without = modulated_deform_conv2d(input, offset, mask, weight, None, *geometry)
    torch.testing.assert_close(without + bias[:, None, None], got, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_zero_offsets_are_the_plain_convolution(geometry):
    input, offset, _, weight = tensors(geometry)
    expected = F.conv2d(input, weight, None, *geometry[:4])
    got = deform_conv2d(input, torch.zeros_like(offset), weight, *geometry)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_a_mask_of_ones_changes_nothing():
    input, offset, mask, weight = tensors(GEOMETRIES[1])
    got = modulated_deform_conv2d(input, offset, torch.ones_like(mask), weight, None, *GEOMETRIES[1])
    torch.testing.assert_close(got, deform_conv2d(input, offset, weight, *GEOMETRIES[1]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('geometry', GEOMETRIES[:3], ids=str)
def test_gradients(geometry):
    input, offset, mask, weight = tensors(geometry, height=4, width=4, kernel=(2, 2), spread=0.3)
    bias = torch.zeros(4, dtype=torch.float64)
    offset = (offset * 0.2 + 0.4).clamp(0.1, 0.9)  # away from pixel centers, where the samples have corners
    for tensor in (input, offset, mask, weight, bias):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, o, w: deform_conv2d(x, o, w, *geometry), (input, offset, weight), fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda x, o, m, w, b: modulated_deform_conv2d(x, o, m, w, b, *geometry),
        (input, offset, mask, weight, bias),
        fast_mode=True,
    )


def compiled_reading(tensor, height, width):
    """What mmcv's compiled kernels read: element after element of each image's memory, whatever the tensor's own grid."""
    batch, channels = tensor.shape[:2]
    flat = [tensor[b].contiguous().view(-1) for b in range(batch)]
    return torch.stack([one[: channels * height * width].view(channels, height, width) for one in flat])


@pytest.mark.parametrize('grid', [(10, 12), (5, 7), (9, 6), (3, 10)], ids=str)
def test_a_larger_grid_of_offsets_is_read_as_compiled_mmcv_reads_it(grid):
    """As in mmdet's DyHead. The rule was compared with the kernels of mmcv 2.1.0, compiled for the CPU: equal to 4e-16."""
    geometry = GEOMETRIES[1]
    input, own, _, weight = tensors(geometry)
    generator = torch.Generator().manual_seed(1)
    offset = torch.randn(2, own.shape[1], *grid, dtype=torch.float64, generator=generator)
    mask = torch.rand(2, own.shape[1] // 2, *grid, dtype=torch.float64, generator=generator)
    leaves = [tensor.requires_grad_() for tensor in (input, offset, mask, weight)]
    got = modulated_deform_conv2d(input, offset, mask, weight, None, *geometry)
    read = [compiled_reading(tensor, *own.shape[2:]) for tensor in (offset, mask)]
    torch.testing.assert_close(got, modulated_deform_conv2d(input, *read, weight, None, *geometry), rtol=0, atol=0)
    torch.testing.assert_close(got, slow_deform_conv(input, *read, weight, *geometry), rtol=1e-10, atol=1e-10)
    outs = got, modulated_deform_conv2d(input, *read, weight, None, *geometry)
    grads = [torch.autograd.grad(out.square().sum(), leaves, retain_graph=True) for out in outs]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)
    assert not torch.equal(grads[0][1], torch.zeros_like(offset))


def test_a_smaller_grid_of_offsets_is_refused():
    input, offset, mask, weight = tensors(GEOMETRIES[0])
    with pytest.raises(ValueError, match=r'at least the size of the output, \(\d, \d\), but they have \(2, 3\).*pad_size_divisor'):
        modulated_deform_conv2d(input, offset[..., :2, :3], mask[..., :2, :3], weight, None, *GEOMETRIES[0])


def test_dyhead_trains():
    from mmdet.models.necks import DyHead

    neck = DyHead(16, 16, num_blocks=2, zero_init_offset=False)
    maps = [torch.randn(2, 16, side, side + side // 2) for side in (16, 8, 4)]
    outs = neck(maps)
    assert [out.shape for out in outs] == [each.shape for each in maps]
    sum(out.square().sum() for out in outs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in neck.parameters())
    with pytest.raises(ValueError, match='pad_size_divisor'):
        neck([torch.randn(1, 16, side, side) for side in (15, 7, 3)])  # 15 is rounded down to 7 here, up in the convolution


def test_im2col_step_does_not_matter():
    input, offset, _, weight = tensors(GEOMETRIES[0])
    results = [deform_conv2d(input, offset, weight, *GEOMETRIES[0], False, step) for step in (1, 2, 32)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize('module', [DeformConv2dPack, ModulatedDeformConv2dPack])
def test_layers_train(module):
    layer = module(4, 6, 3, padding=1)
    layer(torch.randn(2, 4, 7, 8)).square().sum().backward()
    grads = {name: parameter.grad for name, parameter in layer.named_parameters()}
    assert {'weight', 'conv_offset.weight'} <= set(grads)
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    assert grads['weight'].abs().sum() > 0 and grads['conv_offset.weight'].abs().sum() > 0

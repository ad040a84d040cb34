"""RoIAlign through `mmcv.ops` against bilinear samples. Shapes: input (B, C, H, W), rois (K, 5), output (K, C, h, w)."""

import math

import pytest
import torch
from mmcv.ops import RoIAlign, roi_align

from mmfreq.compat.mmcv_ops import MissingOpError, roi_align_backward, roi_align_forward

ROIS = [[0, 1.3, 0.7, 11.9, 8.2], [1, 0, 0, 15, 11], [1, 6.1, 5.5, 6.3, 5.6], [0, -3, -2, 20, 14]]


def bilinear(plane, y, x):
    """One sample of (C, H, W): clamped at the border, zero a pixel beyond it."""
    height, width = plane.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return plane.new_zeros(len(plane))
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    low, right = min(top + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - top, x - left
    upper = plane[:, top, left] * (1 - fx) + plane[:, top, right] * fx
    lower = plane[:, low, left] * (1 - fx) + plane[:, low, right] * fx
    return upper * (1 - fy) + lower * fy


def slow_roi_align(input, rois, size, scale, ratio, aligned):
    out = input.new_zeros(len(rois), input.shape[1], *size)
    for k, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner * scale - 0.5 * aligned for corner in corners)
        roi_h, roi_w = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        bin_h, bin_w = roi_h / size[0], roi_w / size[1]
        rows, columns = (ratio, ratio) if ratio else (math.ceil(bin_h), math.ceil(bin_w))
        for i in range(size[0]):
            for j in range(size[1]):
                samples = [
                    bilinear(input[int(image)], y1 + (i + (r + 0.5) / rows) * bin_h, x1 + (j + (c + 0.5) / columns) * bin_w)
                    for r in range(rows)
                    for c in range(columns)
                ]
                out[k, :, i, j] = sum(samples) / max(len(samples), 1)
    return out


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_roi_align_is_the_mean_of_bilinear_samples(aligned, ratio, scale):
    input = torch.randn(2, 3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor(ROIS, dtype=torch.float64)
    got = roi_align(input, rois, (3, 2), scale, ratio, 'avg', aligned)
    torch.testing.assert_close(got, slow_roi_align(input, rois, (3, 2), scale, ratio, aligned), rtol=1e-12, atol=1e-12)
    assert got.abs().sum() > 0


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
def test_roi_align_gradient(aligned, ratio):
    input = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 0.4, 0.7, 5.2, 4.1], [1, 1, 1, 6, 5]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 3), 1.0, ratio, 'avg', aligned), (input,))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_16_bit_features_are_pooled_in_float32(dtype):
    input = torch.randn(1, 2, 8, 8).to(dtype).requires_grad_()
    rois = torch.tensor([[0, 1.3, 0.7, 6.9, 7.2]])
    out = roi_align(input, rois, (2, 2), 1.0, 2, 'avg', True)
    wide = roi_align(input.detach().float(), rois, (2, 2), 1.0, 2, 'avg', True)
    out.sum().backward()
    assert torch.equal(out, wide.to(dtype)) and input.grad.dtype == dtype


def test_no_rois_give_no_output_and_a_zero_gradient():
    input = torch.randn(1, 2, 8, 8, requires_grad=True)
    out = RoIAlign((2, 2))(input, torch.zeros(0, 5))
    out.sum().backward()
    assert out.shape == (0, 2, 2, 2) and torch.equal(input.grad, torch.zeros_like(input))


@pytest.mark.parametrize('op', [roi_align_forward, roi_align_backward])
def test_max_pooling_names_the_remedy(op):
    tensors = [torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), *[torch.zeros(1, 1, 2, 2)] * 3]
    with pytest.raises(MissingOpError, match=r"pool_mode='avg'.*compiled mmcv"):
        op(*tensors, 2, 2, 1.0, 0, 0, True)

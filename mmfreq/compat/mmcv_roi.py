"""mmcv's RoIAlign on torchvision's kernel. Shapes: input (B, C, H, W), rois (K, 5) = image index, x1 y1 x2 y2, output (K, C,
h, w).

`pool_mode` 1 is the average, which every shipped config uses; 0, the maximum, exists only in compiled mmcv.
"""

import torch

from mmfreq.compat.mmcv_missing import MissingOpError
from mmfreq.compat.mmcv_precision import widen


def _only_average(pool_mode):
    if pool_mode != 1:
        raise MissingOpError(
            "RoIAlign with pool_mode='max' was called, but mmcv has no compiled ops here and torchvision's kernel averages. "
            "Use pool_mode='avg', or install a compiled mmcv; see `python -m mmfreq.doctor`"
        )


def roi_align_forward(
    input, rois, output, argmax_y, argmax_x, aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned
):
    """Write the pooled features into `output`; the two argmax tensors stay as they are."""
    _only_average(pool_mode)
    wide, wide_rois = widen(input, rois)
    output.copy_(
        torch.ops.torchvision.roi_align(
            wide, wide_rois, spatial_scale, aligned_height, aligned_width, max(sampling_ratio, 0), aligned
        )
    )


def roi_align_backward(
    grad_output,
    rois,
    argmax_y,
    argmax_x,
    grad_input,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
):
    """Add the gradient of the features to `grad_input`."""
    _only_average(pool_mode)
    wide, wide_rois = widen(grad_output, rois)
    grad_input += torch.ops.torchvision._roi_align_backward(
        wide,
        wide_rois,
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        max(sampling_ratio, 0),
        aligned,
    )

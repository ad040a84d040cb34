"""mmcv's multi-scale deformable attention, which mmcv itself has in plain torch and uses on the CPU; here for CUDA tensors
too.

Shapes: value (B, keys, heads, C), spatial shapes (levels, 2), sampling locations (B, queries, heads, levels, points, 2),
attention weights (B, queries, heads, levels, points), output (B, queries, heads * C). Slower than the compiled kernel and
needs more memory.
"""

import torch

from mmfreq.compat.mmcv_precision import widen


def ms_deform_attn_forward(value, spatial_shapes, level_start_index, sampling_locations, attention_weights, im2col_step):
    """The output; `level_start_index` follows from the spatial shapes and `im2col_step` is of no use here."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch  # not before mmcv.ops itself is imported

    wide, locations, weights = widen(value, sampling_locations, attention_weights)
    return multi_scale_deformable_attn_pytorch(wide, spatial_shapes, locations, weights).to(value.dtype)


def ms_deform_attn_backward(
    value,
    spatial_shapes,
    level_start_index,
    sampling_locations,
    attention_weights,
    grad_output,
    grad_value,
    grad_sampling_loc,
    grad_attn_weight,
    im2col_step,
):
    """Add the gradients of value, locations and weights to the three tensors; repeats the forward pass."""
    inputs = [tensor.detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(inputs[0], spatial_shapes, level_start_index, *inputs[1:], im2col_step)
        grads = torch.autograd.grad(output, inputs, grad_output.to(output.dtype))
    for total, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads):
        total += grad

"""mmcv's deformable convolutions, v1 and modulated v2, on torchvision's kernel.

Both libraries descend from one kernel and agree on the layouts: input (B, C, H, W), weight (O, C / groups, kh, kw), offset
(B, G * kh * kw * 2, h, w) with (y, x) innermost, mask (B, G * kh * kw, h, w), G deformable groups. Column buffers and
`im2col_step` are of no use here and are left alone.
"""

import torch

from mmfreq.compat.mmcv_precision import widen


def _geometry(stride, pad, dilation, group, deformable_group, use_mask):
    return (*stride, *pad, *dilation, group, deformable_group, use_mask)


def _unmodulated(kH, kW, dH, dW, padH, padW, dilationH, dilationW, group, deformable_group):
    return _geometry((dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group, False)


def _forward(input, weight, offset, mask, bias, geometry):
    return torch.ops.torchvision.deform_conv2d(*widen(input, weight, offset, mask, bias), *geometry)


def _backward(grad_output, input, weight, offset, mask, bias, geometry):
    """Gradients of input, weight, offset, mask and bias."""
    return torch.ops.torchvision._deform_conv2d_backward(*widen(grad_output, input, weight, offset, mask, bias), *geometry)


def _no_mask(input, weight):
    """What torchvision wants in the places of mask and bias."""
    return input.new_zeros(len(input), 1), input.new_zeros(len(weight))


def deform_conv_forward(input, weight, offset, output, columns, ones, *, im2col_step, **geometry):
    """Write the convolution into `output`."""
    output.copy_(_forward(input, weight, offset, *_no_mask(input, weight), _unmodulated(**geometry)))


def deform_conv_backward_input(input, offset, grad_output, grad_input, grad_offset, weight, columns, *, im2col_step, **geometry):
    """Add the gradients to `grad_input` and `grad_offset`."""
    grads = _backward(grad_output, input, weight, offset, *_no_mask(input, weight), _unmodulated(**geometry))
    grad_input += grads[0]
    grad_offset += grads[2]


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight, columns, ones, *, scale, im2col_step, **geometry):
    """Add `scale` times the gradient to `grad_weight`."""
    grads = _backward(grad_output, input, grad_weight, offset, *_no_mask(input, grad_weight), _unmodulated(**geometry))
    grad_weight.add_(grads[1], alpha=scale)


def _modulated(kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group):
    return _geometry((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group, True)


def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask, output, columns, *, with_bias, **geometry):
    """Write the convolution, plus the bias if there is one, into `output`."""
    bias = bias if with_bias else input.new_zeros(len(weight))
    output.copy_(_forward(input, weight, offset, mask, bias, _modulated(**geometry)))


def modulated_deform_conv_backward(
    input,
    weight,
    bias,
    ones,
    offset,
    mask,
    columns,
    grad_input,
    grad_weight,
    grad_bias,
    grad_offset,
    grad_mask,
    grad_output,
    *,
    with_bias,
    **geometry,
):
    """Add the gradients to the five gradient tensors (`grad_bias` only with a bias)."""
    grads = _backward(grad_output, input, weight, offset, mask, weight.new_zeros(len(weight)), _modulated(**geometry))
    for total, grad in zip((grad_input, grad_weight, grad_offset, grad_mask), grads):
        total += grad
    if with_bias:
        grad_bias += grads[4]

"""One rule for number types: 16-bit floats are computed in float32.

torchvision's CPU kernels know no bfloat16, some know no float16, and neither mixes types. mmcv's callers hand over whatever
autocast left them.
"""

from functools import cache

import torch

__all__ = [
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'nms_match',
    'roi_align_backward',
    'roi_align_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
]


_WIDE = (torch.float32, torch.float64)


def widen(like, *tensors):
    """`like` and the other tensors in one float type of at least 32 bits: that of `like` if it is wide, float32 otherwise."""
    dtype = like.dtype if like.dtype in _WIDE else torch.float32
    return [tensor.to(dtype) for tensor in (like, *tensors)]


# Stubs for the mmcv ops that have no stand-in: they can be imported and handed around, not called.


class MissingOpError(NotImplementedError):
    """An op of mmcv was called that exists only in its compiled module."""


def explain(op):
    """The error for `op`, with the two remedies."""
    return MissingOpError(
        f"mmcv op '{op}' was called, but mmcv has no compiled ops here and mmfreq supplies no stand-in for this one. "
        'Install a compiled mmcv that fits your torch (mmcv>=2.0.0,<2.2.0, or the OneDL set), or choose a model or option '
        'without this op; `python -m mmfreq.doctor` lists which ops are there'
    )


class MissingOp:
    """Stands for the op `name`; raises when called. Pickles, copies and compares by name."""

    def __init__(self, name):
        self.__name__ = name

    def __call__(self, *args, **kwargs):
        raise explain(self.__name__)

    def __reduce__(self):
        return missing_op, (self.__name__,)

    def __repr__(self):
        return f'<mmcv op {self.__name__}: not supplied>'


@cache
def missing_op(name):
    """The one stub of that name."""
    return MissingOp(name)


# mmcv's `nms`, `softnms` and `nms_match` on torchvision and plain torch.
#
# Shapes: boxes (N, 4) as x1 y1 x2 y2, scores (N,), dets (N, 5) = boxes and scores. `offset` is 0 or 1: a box is x2 - x1 +
# offset wide. Not guaranteed: with offset=1 a pair whose IoU is within rounding of the threshold may be decided otherwise than
# by compiled mmcv.


def _float32(value):
    """The number as compiled mmcv, whose thresholds are C floats, sees it."""
    return torch.tensor(value, dtype=torch.float32).item()


def nms(bboxes, scores, iou_threshold, offset):
    """Indices of the kept boxes, best score first; a box falls if its IoU with a kept one is above the threshold."""
    bboxes, scores = widen(bboxes, scores)
    if offset:  # the box one pixel wider has the same areas and overlaps
        bboxes = bboxes + bboxes.new_tensor([0.0, 0.0, offset, offset])
    return torch.ops.torchvision.nms(bboxes, scores, _float32(iou_threshold))


def _ious(box, boxes, offset):
    """IoU of `box` (4,) with `boxes` (M, 4) -> (M,)."""
    inter = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2]) + offset
    inter = inter.clamp(min=0).prod(dim=1)
    area = (box[2:] - box[:2] + offset).prod()
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(dim=1)
    return inter / (area + areas - inter)


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Soft-NMS on the CPU: writes the boxes with their decayed scores into `dets`, returns their indices, (M,), M <= N.

    `method`: 0 drops overlapping boxes, 1 decays linearly, 2 by a Gaussian of width `sigma`. One Python step for each kept box:
    milliseconds for hundreds of boxes, seconds for tens of thousands. Boxes of equal score may come in another order than from
    compiled mmcv.
    """
    live_boxes, live_scores = widen(boxes, scores)
    inds = torch.arange(len(boxes))
    kept = []
    while len(inds):
        best = int(live_scores.argmax())
        box = live_boxes[best]
        dets[len(kept)] = torch.cat([box, live_scores[best : best + 1]])
        kept.append(int(inds[best]))
        rest = torch.arange(len(inds)) != best
        live_boxes, live_scores, inds = live_boxes[rest], live_scores[rest], inds[rest]
        iou = _ious(box, live_boxes, offset)
        if method == 2:
            live_scores = live_scores * torch.exp(-(iou * iou) / sigma)
        else:
            decayed = live_scores * (1 - iou) if method == 1 else torch.zeros_like(live_scores)
            live_scores = torch.where(iou >= _float32(iou_threshold), decayed, live_scores)
        stay = live_scores >= _float32(min_score)
        live_boxes, live_scores, inds = live_boxes[stay], live_scores[stay], inds[stay]
    return torch.tensor(kept, dtype=torch.long)


def nms_match(dets, iou_threshold):
    """Groups of indices, best box first: each kept box with the boxes that it suppressed (IoU at or above the threshold)."""
    (dets,) = widen(dets)
    order = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(order):
        best, rest = order[0], order[1:]
        falls = _ious(dets[best, :4], dets[rest, :4], 0) >= _float32(iou_threshold)
        groups.append([int(best), *rest[falls].tolist()])
        order = rest[~falls]
    return groups


# mmcv's RoIAlign on torchvision's kernel. Shapes: input (B, C, H, W), rois (K, 5) = image index, x1 y1 x2 y2, output (K, C,
# h, w).
#
# `pool_mode` 1 is the average, which every shipped config uses; 0, the maximum, exists only in compiled mmcv.


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


# mmcv's focal losses in plain torch.
#
# Shapes: logits (N, C), class indices (N,), class weights (C,) or empty, loss (N, C) for sigmoid and (N,) for softmax. For the
# sigmoid loss an index outside 0..C-1 is background, a row of negatives; for the softmax loss a negative index is ignored. Such
# rows have weight 1 (compiled mmcv reads past the end of the weights there). Logarithms are cut at the smallest normal float32,
# as in mmcv's kernels.


_TINY = torch.finfo(torch.float32).tiny


def _row_weights(target, weight, like):
    """Weight of each row, (N,)."""
    if not weight.numel():
        return torch.ones_like(target, dtype=like.dtype)
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight.to(like.dtype)[target.clamp(0, len(weight) - 1)], 1.0)


def _sigmoid_parts(input, target, weight, alpha):
    (input,) = widen(input)
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    share = positive.to(input.dtype)
    scale = (share * alpha + (1 - share) * (1 - alpha)) * _row_weights(target, weight, input)[:, None]
    return input.sigmoid(), positive, scale


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """Write the loss of each logit into `output`."""
    p, positive, scale = _sigmoid_parts(input, target, weight, alpha)
    term_p = (1 - p) ** gamma * p.clamp(min=_TINY).log()
    term_n = p**gamma * (1 - p).clamp(min=_TINY).log()
    output.copy_(-scale * torch.where(positive, term_p, term_n))


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha):
    """Add the gradient of the summed loss to `grad_input`."""
    p, positive, scale = _sigmoid_parts(input, target, weight, alpha)
    term_p = (1 - p) ** gamma * (1 - p - gamma * p * p.clamp(min=_TINY).log())
    term_n = p**gamma * (gamma * (1 - p) * (1 - p).clamp(min=_TINY).log() - p)
    grad_input += -scale * torch.where(positive, term_p, term_n)


def _softmax_parts(softmax, target, weight, alpha):
    (softmax,) = widen(softmax)
    seen = target >= 0
    p = softmax.gather(1, target.clamp(min=0)[:, None])[:, 0]
    return softmax, p, _row_weights(target, weight, softmax) * seen * alpha


def softmax_focal_loss_forward(softmax, target, weight, output, gamma, alpha):
    """Write the loss of each row into `output`; `softmax` holds probabilities, (N, C)."""
    _, p, scale = _softmax_parts(softmax, target, weight, alpha)
    output.copy_(-scale * (1 - p) ** gamma * p.clamp(min=_TINY).log())


def softmax_focal_loss_backward(softmax, target, weight, buff, grad_input, gamma, alpha):
    """Add the gradient of the summed loss by the logits to `grad_input`; `buff`, (N,), takes the factor of each row."""
    softmax, p, scale = _softmax_parts(softmax, target, weight, alpha)
    buff.copy_(scale * (gamma * (1 - p) ** (gamma - 1) * p * p.clamp(min=_TINY).log() - (1 - p) ** gamma))
    chosen = target[:, None] == torch.arange(softmax.shape[1], device=softmax.device)
    grad_input += buff[:, None] * (chosen.to(softmax.dtype) - softmax)


# mmcv's multi-scale deformable attention, which mmcv itself has in plain torch and uses on the CPU; here for CUDA tensors
# too.
#
# Shapes: value (B, keys, heads, C), spatial shapes (levels, 2), sampling locations (B, queries, heads, levels, points, 2),
# attention weights (B, queries, heads, levels, points), output (B, queries, heads * C). Slower than the compiled kernel and
# needs more memory.


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


# mmcv's deformable convolutions, v1 and modulated v2, on torchvision's kernel.
#
# Both libraries descend from one kernel and agree on the layouts: input (B, C, H, W), weight (O, C / groups, kh, kw), offset
# (B, G * kh * kw * 2, h, w) with (y, x) innermost, mask (B, G * kh * kw, h, w), G deformable groups. Column buffers and
# `im2col_step` are of no use here and are left alone.


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


# The content of `mmcv._ext` where no compiled one is installed: mmcv's ops on torchvision's kernels and plain torch.
#
# `finder.py` executes this file as the module `mmcv._ext`. The functions follow the calling conventions of mmcv 2.x's Python
# side (`mmcv/ops/*.py`): results are written into tensors that the caller hands in, gradients are *added* to them. Whatever is
# not listed in `__all__` is a stub that raises `MissingOpError` when called, not when imported.


try:
    import torchvision
except Exception as error:
    raise ImportError(
        f'mmcv has no compiled ops here, and torchvision, whose kernels would stand in, cannot be imported: {error}. '
        'torch and torchvision must come from the same build; run `python -m mmfreq.doctor`'
    ) from error


def get_compiler_version():
    """What mmcv's environment report prints as its compiler."""
    return f'none: torchvision {torchvision.__version__} kernels, supplied by mmfreq'


def get_compiling_cuda_version():
    """What mmcv's environment report prints as its CUDA version."""
    cuda = getattr(torchvision.version, 'cuda', None)
    return f'{cuda or "none"}: torchvision {torchvision.__version__} kernels, supplied by mmfreq'


def __getattr__(name):
    if name.startswith('_'):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return missing_op(name)

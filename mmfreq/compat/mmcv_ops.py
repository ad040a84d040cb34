"""The content of `mmcv._ext` where no compiled mmcv is installed; `finder.py` executes this file under that name.

| operators of `mmcv.ops` | run on |
|---|---|
| `nms`, `batched_nms` | torchvision's `nms` kernel |
| `soft_nms` (CPU), `nms_match` | plain torch, one Python step per kept box |
| `roi_align`, `pool_mode='avg'` | torchvision's `roi_align` kernel |
| `deform_conv2d`, `modulated_deform_conv2d` | torchvision's `deform_conv2d` kernel |
| `sigmoid_focal_loss`, `softmax_focal_loss` | plain torch |
| multi-scale deformable attention | mmcv's own PyTorch function, on CUDA tensors too |
| all others | a stub that can be imported and raises `MissingOpError` when called |

The functions follow the calling conventions of mmcv 2.x (`mmcv/ops/*.py`): results are written into tensors that the caller
passes, and gradients are *added* to them. 16-bit floats are computed in float32, because torchvision's CPU kernels do not support
all of them and mmcv's callers pass whatever autocast produced.
"""

from functools import cache
from math import prod

import torch

try:
    import torchvision
except Exception as error:
    raise ImportError(
        f'mmcv has no compiled ops here, and torchvision, whose kernels would replace them, cannot be imported: {error}. '
        'torch and torchvision must come from the same build; run `python -m mmfreq.doctor`.'
    ) from error

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

_TINY = torch.finfo(torch.float32).tiny  # mmcv's kernels clamp logarithms at the smallest normal float32, too


def to_common_float(like, *tensors):
    """`like` and the other tensors in one float type: that of `like` if it has 32 or 64 bits, float32 otherwise."""
    dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    return [tensor.to(dtype) for tensor in (like, *tensors)]


def _float32(value):
    """The number rounded to float32: the thresholds of compiled mmcv are C floats."""
    return torch.tensor(value, dtype=torch.float32).item()


class MissingOpError(NotImplementedError):
    """An operator was called that exists only in compiled mmcv."""


class MissingOp:
    """Stub for the operator `name`: raises when called; pickles and copies by name."""

    def __init__(self, name):
        self.__name__ = name

    def __call__(self, *args, **kwargs):
        raise MissingOpError(
            f"mmcv op '{self.__name__}' was called, but mmcv has no compiled ops here and mmfreq supplies no replacement for this "
            'one. Install a compiled mmcv that fits your torch (mmcv>=2.0.0,<2.2.0, or the OneDL set), or choose a model or option '
            'without this op. `python -m mmfreq.doctor` lists the available ops.'
        )

    def __reduce__(self):
        return missing_op, (self.__name__,)

    def __repr__(self):
        return f'<mmcv op {self.__name__}: not supplied>'


@cache
def missing_op(name):
    """The stub of that name; the same object each time."""
    return MissingOp(name)


def __getattr__(name):
    if name.startswith('_'):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return missing_op(name)


def get_compiler_version():
    """The compiler, for mmcv's environment report."""
    return f'none: torchvision {torchvision.__version__} kernels, supplied by mmfreq'


def get_compiling_cuda_version():
    """The CUDA version, for mmcv's environment report."""
    cuda = getattr(torchvision.version, 'cuda', None)
    return f'{cuda or "none"}: torchvision {torchvision.__version__} kernels, supplied by mmfreq'


# NMS. Boxes (N, 4) are x1 y1 x2 y2, scores (N,), dets (N, 5) boxes with scores. With `offset` 1 a box is x2 - x1 + 1 wide; a pair
# whose IoU is within rounding of the threshold may then be decided differently from compiled mmcv.


def nms(bboxes, scores, iou_threshold, offset):
    """Indices of the kept boxes, best score first; a box is suppressed if its IoU with a kept one exceeds the threshold."""
    bboxes, scores = to_common_float(bboxes, scores)
    if offset:  # boxes one pixel wider have the areas and overlaps that offset=1 means
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
    """Soft-NMS on the CPU: writes the boxes with their decayed scores into `dets` and returns their indices, (M,), M <= N.

    `method`: 0 drops overlapping boxes, 1 decays linearly, 2 by a Gaussian of width `sigma`. Takes milliseconds for hundreds of
    boxes and seconds for tens of thousands. Boxes of equal score may be ordered differently from compiled mmcv.
    """
    boxes, scores = to_common_float(boxes, scores)
    indices = torch.arange(len(boxes))
    kept = []
    while len(indices):
        best = int(scores.argmax())
        box = boxes[best]
        dets[len(kept)] = torch.cat([box, scores[best : best + 1]])
        kept.append(int(indices[best]))
        others = torch.arange(len(indices)) != best
        boxes, scores, indices = boxes[others], scores[others], indices[others]
        iou = _ious(box, boxes, offset)
        if method == 2:
            scores = scores * torch.exp(-(iou * iou) / sigma)
        else:
            decayed = scores * (1 - iou) if method == 1 else torch.zeros_like(scores)
            scores = torch.where(iou >= _float32(iou_threshold), decayed, scores)
        remain = scores >= _float32(min_score)
        boxes, scores, indices = boxes[remain], scores[remain], indices[remain]
    return torch.tensor(kept, dtype=torch.long)


def nms_match(dets, iou_threshold):
    """Groups of indices, best box first: each kept box with the boxes it suppressed (IoU at or above the threshold)."""
    (dets,) = to_common_float(dets)
    order = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(order):
        best, others = order[0], order[1:]
        suppressed = _ious(dets[best, :4], dets[others, :4], 0) >= _float32(iou_threshold)
        groups.append([int(best), *others[suppressed].tolist()])
        order = others[~suppressed]
    return groups


# RoIAlign. input (B, C, H, W), rois (K, 5) image index and x1 y1 x2 y2, output (K, C, h, w). `pool_mode` 1 is the average, which
# all shipped configs use; 0, the maximum, exists only in compiled mmcv.


def _check_pool_mode(pool_mode):
    if pool_mode != 1:
        raise MissingOpError(
            "RoIAlign with pool_mode='max' was called, but mmcv has no compiled ops here and torchvision's kernel averages. "
            "Use pool_mode='avg', or install a compiled mmcv; see `python -m mmfreq.doctor`."
        )


def roi_align_forward(
    input, rois, output, argmax_y, argmax_x, aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned
):
    """Write the pooled features into `output`; the two argmax tensors are not touched."""
    _check_pool_mode(pool_mode)
    geometry = (spatial_scale, aligned_height, aligned_width, max(sampling_ratio, 0), aligned)
    output.copy_(torch.ops.torchvision.roi_align(*to_common_float(input, rois), *geometry))


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
    _check_pool_mode(pool_mode)
    geometry = (spatial_scale, aligned_height, aligned_width, *grad_input.shape, max(sampling_ratio, 0), aligned)
    grad_input += torch.ops.torchvision._roi_align_backward(*to_common_float(grad_output, rois), *geometry)


# Deformable convolution, v1 and modulated v2. input (B, C, H, W), weight (O, C / groups, kh, kw), offset (B, G * kh * kw * 2, h, w)
# with (y, x) innermost, mask (B, G * kh * kw, h, w), G deformable groups, output (B, O, h, w). Column buffers and `im2col_step` are
# ignored. Offsets and masks of v2 may have a larger grid than the output, as in mmdet's DyHead: see `_in_grid`.


def _deform_conv(input, weight, offset, mask, bias, geometry):
    return torch.ops.torchvision.deform_conv2d(*to_common_float(input, weight, offset, mask, bias), *geometry)


def _in_grid(tensor, height, width):
    """(B, C, h, w) as (B, C, height, width), with the values that mmcv's compiled v2 kernels read.

    They ignore h and w: of each image they read the first C * height * width values as if they had the grid of the output. The
    published weights of DyHead were trained with that. They would read past the end of a smaller grid, which is refused.
    """
    batch, channels, *grid = tensor.shape
    if grid == [height, width]:
        return tensor
    if height * width > prod(grid):
        raise ValueError(
            f'Expected offsets and masks of at least the size of the output, ({height}, {width}), but they have {tuple(grid)}. In '
            "DyHead the maps of the neck differ by another factor than 2: pad images to multiples of the deepest map's stride "
            '(pad_size_divisor of the data preprocessor).'
        )
    return tensor.flatten(1)[:, : channels * height * width].reshape(batch, channels, height, width)


def _deform_conv_backward(grad_output, input, weight, offset, mask, bias, geometry):
    """Gradients of input, weight, offset, mask and bias."""
    tensors = to_common_float(grad_output, input, weight, offset, mask, bias)
    return torch.ops.torchvision._deform_conv2d_backward(*tensors, *geometry)


def _no_mask(input, weight):
    """The mask and bias that torchvision's kernel expects for v1."""
    return input.new_zeros(len(input), 1), input.new_zeros(len(weight))


def _v1(kH, kW, dH, dW, padH, padW, dilationH, dilationW, group, deformable_group):
    """mmcv's geometry arguments of v1 in torchvision's order; the last one switches the mask on."""
    return dH, dW, padH, padW, dilationH, dilationW, group, deformable_group, False


def _v2(kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group):
    return stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, True


def deform_conv_forward(input, weight, offset, output, columns, ones, *, im2col_step, **geometry):
    """Write the convolution into `output`."""
    output.copy_(_deform_conv(input, weight, offset, *_no_mask(input, weight), _v1(**geometry)))


def deform_conv_backward_input(input, offset, grad_output, grad_input, grad_offset, weight, columns, *, im2col_step, **geometry):
    """Add the gradients to `grad_input` and `grad_offset`."""
    grads = _deform_conv_backward(grad_output, input, weight, offset, *_no_mask(input, weight), _v1(**geometry))
    grad_input += grads[0]
    grad_offset += grads[2]


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight, columns, ones, *, scale, im2col_step, **geometry):
    """Add `scale` times the gradient to `grad_weight`."""
    grads = _deform_conv_backward(grad_output, input, grad_weight, offset, *_no_mask(input, grad_weight), _v1(**geometry))
    grad_weight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask, output, columns, *, with_bias, **geometry):
    """Write the convolution, plus the bias if there is one, into `output`."""
    bias = bias if with_bias else input.new_zeros(len(weight))
    offset, mask = (_in_grid(tensor, *output.shape[2:]) for tensor in (offset, mask))
    output.copy_(_deform_conv(input, weight, offset, mask, bias, _v2(**geometry)))


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
    read = [_in_grid(tensor, *grad_output.shape[2:]) for tensor in (offset, mask)]
    grads = _deform_conv_backward(grad_output, input, weight, *read, weight.new_zeros(len(weight)), _v2(**geometry))
    grad_input += grads[0]
    grad_weight += grads[1]
    for total, grad in ((grad_offset, grads[2]), (grad_mask, grads[3])):  # values that were not read get no gradient
        rest = prod(total.shape[1:]) - prod(grad.shape[1:])
        total += torch.nn.functional.pad(grad.flatten(1), (0, rest)).view_as(total)
    if with_bias:
        grad_bias += grads[4]


# Focal losses. logits (N, C), class indices (N,), class weights (C,) or empty, loss (N, C) for sigmoid and (N,) for softmax. For
# sigmoid an index outside 0..C-1 is background, a row of negatives; for softmax a negative index is ignored. Such rows have weight
# 1 (compiled mmcv reads past the end of the weights there).


def _row_weights(target, weight, like):
    """Weight of each row, (N,)."""
    if not weight.numel():
        return torch.ones_like(target, dtype=like.dtype)
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight.to(like.dtype)[target.clamp(0, len(weight) - 1)], 1.0)


def _sigmoid_terms(input, target, weight, alpha):
    """Probabilities, where the class is the target, and the factor of each entry, all (N, C)."""
    (input,) = to_common_float(input)
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    one_hot = positive.to(input.dtype)
    scale = (one_hot * alpha + (1 - one_hot) * (1 - alpha)) * _row_weights(target, weight, input)[:, None]
    return input.sigmoid(), positive, scale


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """Write the loss of each logit into `output`."""
    p, positive, scale = _sigmoid_terms(input, target, weight, alpha)
    term_p = (1 - p) ** gamma * p.clamp(min=_TINY).log()
    term_n = p**gamma * (1 - p).clamp(min=_TINY).log()
    output.copy_(-scale * torch.where(positive, term_p, term_n))


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha):
    """Add the gradient of the summed loss to `grad_input`."""
    p, positive, scale = _sigmoid_terms(input, target, weight, alpha)
    term_p = (1 - p) ** gamma * (1 - p - gamma * p * p.clamp(min=_TINY).log())
    term_n = p**gamma * (gamma * (1 - p) * (1 - p).clamp(min=_TINY).log() - p)
    grad_input += -scale * torch.where(positive, term_p, term_n)


def _softmax_terms(softmax, target, weight, alpha):
    """Probabilities (N, C), those of the targets (N,), and the factor of each row (N,)."""
    (softmax,) = to_common_float(softmax)
    p = softmax.gather(1, target.clamp(min=0)[:, None])[:, 0]
    return softmax, p, _row_weights(target, weight, softmax) * (target >= 0) * alpha


def softmax_focal_loss_forward(softmax, target, weight, output, gamma, alpha):
    """Write the loss of each row into `output`; `softmax` holds probabilities, (N, C)."""
    _, p, scale = _softmax_terms(softmax, target, weight, alpha)
    output.copy_(-scale * (1 - p) ** gamma * p.clamp(min=_TINY).log())


def softmax_focal_loss_backward(softmax, target, weight, buff, grad_input, gamma, alpha):
    """Add the gradient of the summed loss by the logits to `grad_input`; the factor of each row goes to `buff`, (N,)."""
    softmax, p, scale = _softmax_terms(softmax, target, weight, alpha)
    buff.copy_(scale * (gamma * (1 - p) ** (gamma - 1) * p * p.clamp(min=_TINY).log() - (1 - p) ** gamma))
    one_hot = target[:, None] == torch.arange(softmax.shape[1], device=softmax.device)
    grad_input += buff[:, None] * (one_hot.to(softmax.dtype) - softmax)


# Multi-scale deformable attention. value (B, keys, heads, C), spatial shapes (levels, 2), sampling locations (B, queries, heads,
# levels, points, 2), attention weights (B, queries, heads, levels, points), output (B, queries, heads * C). Slower than the
# compiled kernel, with more memory.


def ms_deform_attn_forward(value, spatial_shapes, level_start_index, sampling_locations, attention_weights, im2col_step):
    """The output; `level_start_index` follows from the spatial shapes, and `im2col_step` is ignored."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch  # mmcv.ops itself imports this file

    wide, locations, weights = to_common_float(value, sampling_locations, attention_weights)
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

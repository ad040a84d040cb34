"""mmcv's focal losses in plain torch.

Shapes: logits (N, C), class indices (N,), class weights (C,) or empty, loss (N, C) for sigmoid and (N,) for softmax. For the
sigmoid loss an index outside 0..C-1 is background, a row of negatives; for the softmax loss a negative index is ignored. Such
rows have weight 1 (compiled mmcv reads past the end of the weights there). Logarithms are cut at the smallest normal float32,
as in mmcv's kernels.
"""

import torch

from mmfreq.compat.mmcv_precision import widen

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

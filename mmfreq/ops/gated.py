"""Gated products: the product of two maps, then a linear map; the product is not kept for the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import linear

from mmfreq.ops.fusing import Tensors, gradients, leaves_of, linear_into, no_autocast, pieces, wants_gradient


def gated_linear(
    gate: Tensor, x: Tensor, parameters: Tensors, prepare: Callable[..., Tensors] = lambda *weights: weights
) -> Tensor:
    """Linear map of `gate * x` over the last axis (one step of gnConv, HorNet eq. 3.3).

    Args:
        gate, x: channels-last maps.
        parameters: from which `prepare` makes weight `(O, C)` and bias `(O)` or None; called again in the backward pass.

    Shape:
        Two of `(..., C)` to `(..., O)`, in the dtype of the weight.
    """
    tokens = [t.reshape(-1, t.shape[-1]) for t in (gate, x)]
    with no_autocast(gate):
        if wants_gradient(gate, x, *parameters):
            out = _GatedLinear.apply(*tokens, prepare, *parameters)
        else:
            out = _forward(*tokens, *prepare(*parameters))
    return out.view(*gate.shape[:-1], -1)


def _forward(gate: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    slices = pieces(len(gate), gate.shape[-1] * weight.element_size(), gate.device)
    if len(slices) == 1:
        return linear((gate * x).to(weight.dtype), weight, bias)
    out = weight.new_empty(len(gate), len(weight))
    for at in slices:
        linear_into(out[at], (gate[at] * x[at]).to(weight.dtype), weight, bias)
    return out


class _GatedLinear(Function):
    @staticmethod
    def forward(ctx, gate, x, prepare, *parameters):
        ctx.save_for_backward(gate, x, *parameters)
        ctx.prepare = prepare
        return _forward(gate, x, *prepare(*parameters))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        gate, x, *parameters = ctx.saved_tensors
        leaves = leaves_of(parameters)
        with torch.enable_grad():
            weights = ctx.prepare(*leaves)
        weight, bias = (None if w is None else w.detach() for w in weights)
        product = (gate * x).to(weight.dtype)
        dweight = grad.t() @ product
        del product
        dproduct = grad @ weight
        dweights = gradients(weights, leaves, (dweight, None if bias is None else grad.sum(0)))
        return dproduct * x, dproduct.mul_(gate), None, *dweights

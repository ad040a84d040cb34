"""Gated products: the product of two maps, then a linear map; the product is not kept for the backward pass."""

from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import linear

from mmfreq.ops.fusing import no_autocast, work_dtype


def gated_linear(gate: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Linear map of `gate * x` over the last axis (one step of gnConv, HorNet eq. 3.3).

    Shape:
        Two of `(..., C)` to `(..., O)`, weight `(O, C)`, in the dtype that autocast gives a linear map.
    """
    dtype = work_dtype(gate)
    with no_autocast(gate):
        return _GatedLinear.apply(gate, x, weight.to(dtype), None if bias is None else bias.to(dtype))


class _GatedLinear(Function):
    @staticmethod
    def forward(ctx, gate, x, weight, bias):
        ctx.save_for_backward(gate, x, weight, bias)
        return linear((gate * x).to(weight.dtype), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        gate, x, weight, bias = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        product = (gate * x).to(weight.dtype).reshape(-1, gate.shape[-1])
        dweight = flat.t() @ product
        del product
        dproduct = grad @ weight
        return dproduct * x, dproduct.mul_(gate), dweight, None if bias is None else flat.sum(0)

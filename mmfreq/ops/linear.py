"""Linear maps over the last axis as a CPU does them fastest."""

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

# What torch's compiler makes of a linear map on a CPU: bias and GELU are part of the matrix product. Without it (another build of
# torch), or where it does not apply, the ordinary functions do the same in two or three passes.
_linear_pointwise = getattr(torch.ops.mkldnn, '_linear_pointwise', None)
WORTH, ROWS = 2**22, 16  # multiply-adds and rows in float32; below, its own preparations take longer than the extra passes


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None, with_gelu: bool = False) -> Tensor:
    """`linear(x, weight, bias)`, then GELU if asked for; without gradients.

    Shape:
        `(T, C)` and `(O, C)` to `(T, O)`.
    """
    worth_it = x.dtype == torch.bfloat16 or (x.dtype == torch.float32 and len(x) >= ROWS and len(x) * weight.numel() >= WORTH)
    supported = _linear_pointwise is not None and x.device.type == 'cpu' and torch.backends.mkldnn.enabled and x.numel()
    if worth_it and supported and (bias is not None or with_gelu):
        act, form = ('gelu', 'none') if with_gelu else ('none', '')
        return _linear_pointwise(x, weight, bias, act, [], form)
    out = linear(x, weight, bias)
    return gelu(out) if with_gelu else out


def linear_into(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear(x, weight, bias)` of a matrix `x`, written into `out`."""
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)

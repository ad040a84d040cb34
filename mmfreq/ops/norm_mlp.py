"""Layer norm followed by linear maps: one autograd function that keeps the input and the hidden layer, and nothing else.

Plain autograd keeps the normed input, the hidden layer before and after its activation, and the output before a layer scale. The
first and third are cheap to compute again; the last is not needed at all if the layer scale is multiplied into the matrix
(`scaled_linear`): the gradient of the product of matrices gives both their gradients. Matrices that were scaled or cast are made
again in the backward pass, too.

Legend: T tokens, C channels, K hidden channels, O channels of the output.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import layer_norm, linear

from mmfreq.ops.activation import overwriting
from mmfreq.ops.fusing import (
    Tensors,
    gradients,
    leaves_of,
    linear_into,
    no_autocast,
    pieces,
    vjp,
    wants_gradient,
    work_dtype,
)


def scaled_linear(weight: Tensor, bias: Tensor | None, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the linear map or 1x1 convolution `scale * (weight x + bias)`, one factor for each row."""
    if scale is None:
        return weight, bias
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), None if bias is None else bias * scale


def norm_linear(
    x: Tensor,
    norm: tuple[Tensor | None, Tensor | None, float],
    maps: Sequence[tuple[Tensor, Tensor | None]],
    channels_first: bool = False,
    with_mean: bool = False,
) -> tuple[Tensor, ...]:
    """Several linear maps of one normed map; the normed map is not kept for the backward pass.

    Args:
        x: channels-last map.
        norm: weight, bias and eps of a layer norm over the channels.
        maps: (weight `(O, C)`, bias `(O)` or None) of each linear map.
        channels_first: the results are NCHW (contiguous), straight from the matrix product.
        with_mean: the mean of the normed map over the grid, `(B, C)` in float32 at least, comes last.

    Shape:
        `(B, H, W, C)` to `(B, H, W, O)` or `(B, O, H, W)` for each map, in the dtype that autocast gives a linear map.
    """
    dtype = work_dtype(x)
    flat = tuple(t if t is None else t.to(dtype) for pair in maps for t in pair)
    with no_autocast(x):
        if wants_gradient(x, *norm[:2], *flat):
            outs = _NormLinear.apply(x, *norm, dtype, channels_first, with_mean, *flat)
        else:
            outs = _norm_linear(x, norm, dtype, channels_first, with_mean, flat)
    maps, mean = (outs[:-1], outs[-1:]) if with_mean else (outs, ())
    # reshaped out here: what an autograd function returns must not be a view, or nobody could write into it
    if channels_first:
        return *(out.unflatten(2, x.shape[1:3]) for out in maps), *mean
    return *(out.view(*x.shape[:-1], -1) for out in maps), *mean


def norm_mlp(
    x: Tensor,
    norm: tuple[Tensor | None, Tensor | None, float] | None,
    parameters: Tensors,
    act: Callable[[Tensor], Tensor],
    prepare: Callable[..., Tensors] = lambda *weights: weights,
    residual: Tensor | None = None,
) -> Tensor:
    """Layer norm, linear map, activation, linear map over the last axis, in pieces; keeps `x` and the hidden layer.

    Args:
        x: channels-last map or tokens.
        norm: weight, bias and eps of a layer norm; None for no norm.
        parameters: from which `prepare` makes weight and bias (or None) of the first and of the second linear map, in one dtype. It
            is called again in the backward pass, and what it makes is not kept.
        act: activation without parameters.
        residual: without gradients alone: the result is added to it in place, and it is returned.

    Shape:
        `(..., C)` to `(..., O)`, in the dtype of the weights.
    """
    tokens = x.reshape(-1, x.shape[-1])
    with no_autocast(x):
        if not wants_gradient(x, *parameters, *(norm or ())[:2]):
            flat = None if residual is None else residual.view(-1, residual.shape[-1])
            out = _mlp_forward(tokens, norm, prepare(*parameters), act, residual=flat)
        else:
            out = _NormMlp.apply(tokens, *(norm or (None, None, None)), act, prepare, *parameters)
    return out.view(*x.shape[:-1], out.shape[-1])


def normed(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float | None, dtype: torch.dtype) -> Tensor:
    """Layer norm over the last axis in the dtype of its parameters (none: of `x`), cast to `dtype`; without eps only the cast."""
    if eps is None:
        return x.to(dtype)
    wide = x if weight is None or x.dtype == torch.float64 else x.to(weight.dtype)
    return layer_norm(wide, x.shape[-1:], weight, bias, eps).to(dtype)


class _NormLinear(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps, dtype, channels_first, with_mean, *flat):
        ctx.save_for_backward(x, weight, bias, *flat)
        ctx.eps, ctx.dtype, ctx.channels_first, ctx.with_mean = eps, dtype, channels_first, with_mean
        return _norm_linear(x, (weight, bias, eps), dtype, channels_first, with_mean, flat)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        x, weight, bias, *flat = ctx.saved_tensors
        tokens = x.reshape(-1, x.shape[-1])
        dmean = None
        if ctx.with_mean:
            *grads, dmean = grads
        if ctx.channels_first:
            grads = [g.transpose(1, 2).reshape(-1, g.shape[1]) for g in grads]
        y = normed(tokens, weight, bias, ctx.eps, ctx.dtype)
        found = []
        back = None
        for g, w, b in zip(grads, flat[::2], flat[1::2]):
            found += [g.t() @ y, None if b is None else g.sum(0)]
            back = g @ w if back is None else back.addmm_(g, w)
        del y
        if dmean is not None:
            count = x.shape[1] * x.shape[2]
            back.view(len(x), count, -1).add_((dmean / count).to(back.dtype).unsqueeze(1))
        dx, dweight, dbias = _norm_backward(tokens, weight, bias, ctx.eps, ctx.dtype, back)
        return dx.view_as(x), dweight, dbias, None, None, None, None, *found


def _norm_linear(x, norm, dtype, channels_first, with_mean, flat):
    maps = list(zip(flat[::2], flat[1::2]))
    if not channels_first and not with_mean:
        return _linear_pieces(x, norm, maps, dtype)
    y = normed(x, *norm, dtype)
    mean = (y.mean((1, 2), dtype=torch.promote_types(dtype, torch.float32)),) if with_mean else ()
    if not channels_first:
        tokens = y.reshape(-1, y.shape[-1])
        return *(linear(tokens, w, b) for w, b in maps), *mean
    columns = y.flatten(1, 2).transpose(1, 2)  # (B, C, H W), a view
    return *(_rows_times(w, b, columns) for w, b in maps), *mean


def _linear_pieces(x, norm, maps, dtype):
    """Each linear map of the normed tokens, a piece at a time; as a whole where that is one piece."""
    tokens = x.reshape(-1, x.shape[-1])
    slices = pieces(len(tokens), max(len(w) for w, _ in maps) * dtype.itemsize, x.device)
    if len(slices) == 1:
        y = normed(tokens, *norm, dtype)
        return tuple(linear(y, w, b) for w, b in maps)
    outs = tuple(tokens.new_empty(len(tokens), len(w), dtype=dtype) for w, _ in maps)
    for at in slices:
        y = normed(tokens[at], *norm, dtype)
        for out, (w, b) in zip(outs, maps):
            linear_into(out[at], y, w, b)
    return outs


def _rows_times(weight: Tensor, bias: Tensor | None, columns: Tensor) -> Tensor:
    """`(O, C)` times `(B, C, T)`, plus the bias `(O)`."""
    rows = weight.expand(len(columns), -1, -1)
    return rows @ columns if bias is None else torch.baddbmm(bias.view(1, -1, 1), rows, columns)


def linear_of_bchw(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear map of the channels of an NCHW map, the result channels-last: the matrix product reads the map as it lies.

    Shape:
        `(B, C, H, W)`, `(O, C)` and `(O)` or, one for each sample, `(B, O)` to `(B, H, W, O)`.
    """
    rows, matrix = x.flatten(2).transpose(1, 2), weight.t().expand(len(x), -1, -1)
    out = rows @ matrix if bias is None else torch.baddbmm(bias.view(-1, 1, len(weight)), rows, matrix)
    return out.unflatten(1, x.shape[2:])


def _norm_backward(x, weight, bias, eps, dtype, grad):
    if eps is None:
        return grad.to(x.dtype), None, None
    return vjp(lambda *inputs: normed(*inputs, eps, dtype), (x, weight, bias), grad)


def _mlp_forward(x, norm, weights, act, hidden=None, residual=None):
    """The chain on tokens in pieces; fills `hidden` if it is given; adds to `residual` if that is given."""
    w1, b1, w2, b2 = weights
    out = x.new_empty(len(x), len(w2), dtype=w2.dtype) if residual is None else residual
    for at in pieces(len(x), len(w1) * w1.element_size(), x.device):
        y = normed(x[at], *(norm or (None, None, None)), w1.dtype)
        a = overwriting(act)(linear(y, w1, b1)) if hidden is None else act(linear_into(hidden[at], y, w1, b1))
        if residual is None:
            linear_into(out[at], a, w2, b2)
        else:
            out[at].add_(linear(a, w2, b2))
    return out


class _NormMlp(Function):
    @staticmethod
    def forward(ctx, x, norm_weight, norm_bias, eps, act, prepare, *parameters):
        weights = prepare(*parameters)
        hidden = x.new_empty(len(x), len(weights[0]), dtype=weights[0].dtype)
        out = _mlp_forward(x, None if eps is None else (norm_weight, norm_bias, eps), weights, act, hidden)
        ctx.save_for_backward(x, norm_weight, norm_bias, hidden, *parameters)
        ctx.eps, ctx.act, ctx.prepare = eps, act, prepare
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, norm_weight, norm_bias, hidden, *parameters = ctx.saved_tensors
        leaves = leaves_of(parameters)
        with torch.enable_grad():
            weights = ctx.prepare(*leaves)
        w1, b1, w2, b2 = (None if w is None else w.detach() for w in weights)
        dx = torch.empty_like(x)
        sums = Sums()
        for at in pieces(len(x), len(w1) * w1.element_size(), x.device):
            g, piece = grad[at], x[at]
            h = hidden[at].detach().requires_grad_()
            with torch.enable_grad():
                a = ctx.act(h)
            dw2 = g.t() @ a.detach()
            (dh,) = torch.autograd.grad(a, h, g @ w2)
            y = normed(piece, norm_weight, norm_bias, ctx.eps, w1.dtype)
            dw1 = dh.t() @ y
            dx[at], *dnorm = _norm_backward(piece, norm_weight, norm_bias, ctx.eps, w1.dtype, dh @ w1)
            sums.add(*dnorm, dw1, None if b1 is None else dh.sum(0), dw2, None if b2 is None else g.sum(0))
        dnorm_weight, dnorm_bias, *dweights = sums.total
        return dx, dnorm_weight, dnorm_bias, None, None, None, *gradients(weights, leaves, dweights)


class Sums:
    """Sums of several gradients over pieces, in float32 at least where there is more than one piece."""

    def __init__(self):
        self.total = None

    def add(self, *terms: Tensor | None) -> None:
        if self.total is None:
            self.total = list(terms)
            return
        for k, term in enumerate(terms):
            if term is not None:
                total = self.total[k]
                wide = torch.promote_types(total.dtype, torch.float32)
                self.total[k] = total.to(wide).add_(term)

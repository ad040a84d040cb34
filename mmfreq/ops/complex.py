"""The block-diagonal complex MLP of AFFNet's masks and of AFNO, on pairs of real tensors.

A complex weight is a real tensor whose first axis is (real, imaginary).

Legend: B batch, K blocks, I O input and output channels of a block, H F half spectrum.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softshrink


def soft_shrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """`torch.nn.functional.softshrink`; in a graph for ONNX, two operators instead of its seven."""
    return input - input.clamp(-lambd, lambd) if torch.onnx.is_in_onnx_export() else softshrink(input, lambd)


def block_linear(stacked: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Block-diagonal complex linear map over the channels, the same at every frequency: y = x W + b.

    One real product computes it: (Re y, Im y) = (Re x, Im x) ((Re W, Im W), (-Im W, Re W)) + (Re b, Im b).

    Shape:
        `stacked` `(B, K, 2I, N)` for N frequencies, a block's real parts before its imaginary parts; `weight` `(2, K, I, O)`,
        `bias` `(2, K, O)`. Returns `(B, K, 2O, N)`.
    """
    w_re, w_im = weight
    matrix = torch.cat((torch.cat((w_re, w_im), 2), torch.cat((-w_im, w_re), 2)), 1).transpose(1, 2)  # (K, 2O, 2I)
    column = torch.cat(tuple(bias), 1).unsqueeze(-1)
    return matrix @ stacked + column


def block_mlp(
    re: Tensor,
    im: Tensor,
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    activation: Callable[[Tensor], Tensor],
    threshold: float,
) -> tuple[Tensor, Tensor]:
    """`softshrink(activation(x W1 + b1) W2 + b2)`; the activation and the soft-shrink act on real and imaginary parts separately.

    Args:
        re, im: real and imaginary part of the spectrum; blocks are contiguous groups of channels.
        first, second: (weight, bias) as in `block_linear`.
        activation: a function of real tensors.
        threshold: lambda of the soft-shrink.

    Shape:
        Two tensors `(B, C, H, F)` to two of the same shape, C = K I.
    """
    stacked = torch.cat([part.unflatten(1, (first[0].shape[1], -1)) for part in (re, im)], 2)  # (B, K, 2I, H, F)
    hidden = activation(block_linear(stacked.flatten(3), *first))
    out = soft_shrink(block_linear(hidden, *second), threshold)
    out_re, out_im = out.unflatten(3, re.shape[2:]).chunk(2, 2)
    return out_re.flatten(1, 2), out_im.flatten(1, 2)

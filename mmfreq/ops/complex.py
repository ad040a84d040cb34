"""Complex arithmetic on pairs of real tensors: the block-diagonal network of AFFNet's and AFNO's spectral masks.

Complex weights are kept as real tensors whose first axis is (real, imaginary). `real - imaginary` and `real + imaginary` in such
code is the product of two complex numbers written out: (a + ib)(c + id) = (ac - bd) + i(ad + bc).

Legend: B batch, K blocks, I O channels of a block, H F half spectrum.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softshrink as soft_shrink

__all__ = ['block_linear', 'block_mlp', 'soft_shrink']


def block_linear(stacked: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Block-diagonal complex linear map over the channels, the same at every frequency.

    The four real products are one: (re, im) times the real matrix ((Re W, Im W), (-Im W, Re W)).

    Shape:
        `stacked` `(B, K, 2I, N)`, the real parts of a block's channels before the imaginary ones, N frequencies; `weight`
        `(2, K, I, O)`, `bias` `(2, K, O)`; `(B, K, 2O, N)`.
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
    """Linear, activation, linear, soft-shrink; activation and soft-shrink act on real and imaginary part separately.

    Args:
        re, im: the spectrum; blocks are contiguous groups of channels.
        first, second: (weight, bias) as in `block_linear`.
        activation: a real function.
        threshold: lambda of the soft-shrink.

    Shape:
        Two of `(B, C, H, F)` to two of the same, C = K I.
    """
    stacked = torch.cat([part.unflatten(1, (first[0].shape[1], -1)) for part in (re, im)], 2)  # (B, K, 2I, H, F)
    hidden = activation(block_linear(stacked.flatten(3), *first))
    out = soft_shrink(block_linear(hidden, *second), threshold)
    return tuple(part.flatten(1, 2) for part in out.unflatten(3, re.shape[2:]).chunk(2, 2))

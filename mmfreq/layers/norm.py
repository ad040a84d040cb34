"""Layer norms of NCHW maps: over the channels of each pixel, and over the whole map."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from mmfreq.ops.fusing import may_fuse, pieces, wants_gradient


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over dim 1: biased variance, `eps` inside the root, a weight and a bias per channel (HorNet, 'channels_first').

    Shape:
        `(B, C, H, W)` to the same; the result lies in memory as channels-last.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x_bhwc = layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x_bhwc.permute(0, 3, 1, 2)


class MapNorm(nn.GroupNorm):
    """Norm over channels and grid together, per sample; a weight and a bias per channel (a group norm of one group).

    torch's own group norm of channels-last maps on a CPU takes the variance as a difference of squares, which loses a map whose
    mean is large against its spread. Here it is exact in either layout, and keeps the layout where no gradient is wanted.

    Shape:
        `(B, C, H, W)` to the same.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__(1, channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != 'cpu' or x.is_contiguous():
            return super().forward(x)
        if wants_gradient(x, self.weight, self.bias) or not may_fuse() or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x.contiguous())
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).permute(0, 2, 3, 1)
        centred = wide - wide.mean((1, 2, 3), keepdim=True)
        variance = mean_square(centred.flatten(1)).view(-1, 1, 1, 1)
        y_bhwc = centred.mul_((variance + self.eps).rsqrt() * self.weight).add_(self.bias)
        return y_bhwc.permute(0, 3, 1, 2).to(x.dtype)


def mean_square(x: Tensor) -> Tensor:
    """Of each row, `(B, N)` to `(B)`. With torch's sums, which are pairwise; its norms are not."""
    found = x.new_zeros(len(x))
    for at in pieces(x.shape[1], len(x) * x.element_size(), x.device):
        piece = x[:, at]
        found += (piece * piece).sum(1)
    return found / x.shape[1]

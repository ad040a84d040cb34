"""Layer norm over the channels of an NCHW map."""

from torch import Tensor, nn
from torch.nn.functional import layer_norm


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

"""The two-layer perceptron, in the published names."""

from collections.abc import Callable

from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear `fc1`, activation `act`, linear `fc2`, on the last axis.

    Args:
        channels: of the input.
        hidden: of the layer in between.
        out_channels: of the output; default `channels`.
        act: makes the activation.
        bias: of both linear layers.

    Shape:
        `(..., channels)` to `(..., out_channels)`.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        out_channels: int | None = None,
        act: Callable[[], nn.Module] = nn.GELU,
        bias: bool = True,
    ):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, bias=bias)
        self.act = act()
        self.fc2 = nn.Linear(hidden, channels if out_channels is None else out_channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))

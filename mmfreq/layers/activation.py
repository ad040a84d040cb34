"""Activations of the MetaFormer baselines (Yu et al., arXiv 2210.13452)."""

import torch
from torch import Tensor, nn

from mmfreq.ops.activation import squared_relu, star_relu


class StarReLU(nn.Module):
    """`scale * relu(x)^2 + bias` with one learnable scale and bias, starting at 1 and 0 (as DFFormer's code has it).

    Shape:
        Any to the same.
    """

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return star_relu(x, self.scale, self.bias)


class SquaredReLU(nn.Module):
    """`relu(x)^2`.

    Shape:
        Any to the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        return squared_relu(x)

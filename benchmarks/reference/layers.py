"""Operations that several reference implementations share.

Legend: B batch, C channels, H W grid of the map, h w stored grid, F = W // 2 + 1 half width, K blocks, I O channels of a block.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class StarReLU(nn.Module):
    """ReLU, square, times a learned number, plus a learned number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.relu(x) ** 2 + self.bias


class Mlp(nn.Module):
    """Two linear layers on the last axis with an activation between them."""

    def __init__(self, channels: int, hidden: int, out_channels: int, act: nn.Module, bias: bool):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, bias=bias)
        self.act = act
        self.fc2 = nn.Linear(hidden, out_channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = self.act(x)
        return self.fc2(x)


def full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast on the device of `x`: transforms and spectra are float32 and complex64."""
    return torch.autocast(device_type=x.device.type, enabled=False)


def to_spectrum(x: Tensor, dims: tuple[int, int]) -> Tensor:
    """The half spectrum, complex64, of a map with H and W at `dims`."""
    return torch.fft.rfft2(x.to(torch.float32), dim=dims, norm='ortho')


def from_spectrum(spec: Tensor, size: tuple[int, int], dims: tuple[int, int]) -> Tensor:
    """The float32 map of size (H, W) of a half spectrum."""
    return torch.fft.irfft2(spec, s=size, dim=dims, norm='ortho')


def filtered(x: Tensor, weight: Tensor, dims: tuple[int, int]) -> Tensor:
    """A map times a filter in the frequency domain; float32.

    Args:
        x: H and W at `dims`.
        weight: real view of the filter for the half spectrum of this grid, (real, imaginary) last.
    """
    with full_precision(x):
        spec = to_spectrum(x, dims)
        spec = spec * torch.view_as_complex(weight.contiguous())
        return from_spectrum(spec, (x.shape[dims[0]], x.shape[dims[1]]), dims)


def resized(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Filters `(h, w // 2 + 1, C, 2)` as 2C images, resized to the half spectrum of (H, W): bicubic, corners aligned.

    Shape:
        `(H, F, C, 2)`.
    """
    images = weight.flatten(2).permute(2, 0, 1).unsqueeze(0)
    images = interpolate(images, size=(size[0], size[1] // 2 + 1), mode='bicubic', align_corners=True)
    return images.squeeze(0).permute(1, 2, 0).unflatten(2, weight.shape[2:])


def complex_linear(equation: str, re: Tensor, im: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A block-diagonal linear map of complex numbers by four real products.

    Args:
        equation: of `torch.einsum`, from the map and one part of the weight.
        re, im: the two parts of the spectrum.
        weight: `(2, K, I, O)`, real part first.
        bias: `(2, K, O)` and as many axes of 1 as come after O in the result.
    """
    out_re = torch.einsum(equation, re, weight[0]) - torch.einsum(equation, im, weight[1]) + bias[0]
    out_im = torch.einsum(equation, im, weight[0]) + torch.einsum(equation, re, weight[1]) + bias[1]
    return out_re, out_im


def small_normal(*shape: int) -> nn.Parameter:
    """A parameter of normal values, std 0.02."""
    return nn.Parameter(0.02 * torch.randn(*shape))

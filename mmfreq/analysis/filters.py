"""What a layer has learned in its filters: their frequency responses and their kernels in space.

A stored filter W multiplies the spectrum of a map; that is the circular convolution with the kernel whose spectrum W is (GFNet,
arXiv 2107.00645, section 3.2). Here a filter is shown as it acts: the part of its zero and Nyquist columns that a real map cannot
tell (see `mmfreq.ops.spectral`) is left out.

Legend: C filters of a layer, h w grid.
"""

from dataclasses import dataclass

import numpy as np
import torch

from mmfreq.layers.filters import StoredFilter, as_grid
from mmfreq.ops import irfft2


@dataclass(frozen=True)
class LearnedFilters:
    """The filters of one layer.

    Attributes:
        name: of the layer in the model.
        response: complex `(C, h, w)`, the zero frequency at `(h // 2, w // 2)`; a step is one cycle per map.
        kernel: real `(C, h, w)`, lag zero at `(h // 2, w // 2)`; a step is one position of the map.
    """

    name: str
    response: np.ndarray
    kernel: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """By which factor each frequency is amplified, `(C, h, w)`."""
        return np.abs(self.response)

    def strongest(self, count: int) -> list[int]:
        """The `count` filters with the largest root mean square gain, in their own order."""
        power = (self.gain**2).mean((1, 2))
        return sorted(np.argsort(-power, kind='stable')[:count].tolist())


@torch.no_grad()
def learned_filters(layer: StoredFilter, name: str = '', size: tuple[int, int] | None = None) -> LearnedFilters:
    """The filters of one layer.

    Args:
        size: (H, W) of the maps that they act on, resized by the layer's policy as in forward; None is the stored grid.

    Raises:
        ValueError: a size below 1x1.
    """
    height, width = as_grid(size or layer.grid)
    weight = layer.filter_for(size) if size else layer.stored
    weight = weight.detach().to('cpu', torch.float64).movedim(layer.weight_dims, (1, 2))  # (C, h, w // 2 + 1, 2)
    kernel = irfft2(torch.view_as_complex(weight.contiguous()), (height, width))  # orthonormal: sqrt(h w) times the kernel
    response = torch.fft.fft2(kernel, norm='ortho')
    kernel = kernel / (height * width) ** 0.5
    return LearnedFilters(name, *(torch.fft.fftshift(t, dim=(-2, -1)).numpy() for t in (response, kernel)))


def radial_gain(gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean gain against the frequency, whatever its direction.

    Args:
        gain: `(C, h, w)`, the zero frequency in the middle.

    Returns:
        Frequencies `(R,)` in cycles per position, from 0 in steps of one cycle along the longer side to at most 0.5, and the gain
        `(C, R)` in the ring around each.
    """
    height, width = gain.shape[-2:]
    side = max(height, width)
    vertical, horizontal = ((np.arange(n) - n // 2) / n for n in (height, width))
    ring = np.rint(np.hypot(vertical[:, None], horizontal) * side).astype(int)
    rings = np.arange(side // 2 + 1)
    return rings / side, np.stack([gain[:, ring == r].mean(-1) for r in rings], -1)

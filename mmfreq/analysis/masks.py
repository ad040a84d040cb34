"""The masks that AFFNet computes from the spectrum of a map: it stores no filters (arXiv 2307.14008, section 3).

Legend: C channels, H W grid of the map.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import silu

from mmfreq.analysis.observe import observe
from mmfreq.layers import AdaptiveFrequencyFilter
from mmfreq.layers.basic import to_bchw
from mmfreq.ops import block_mlp, rfft2


@dataclass(frozen=True)
class SpectralMask:
    """The mask of one layer for one picture; arrays `(C, H, W)`, the zero frequency at `(H // 2, W // 2)`.

    Attributes:
        name: of the layer in the model.
        spectrum: magnitudes of what is masked, from orthonormal transforms.
        mask: magnitudes of the mask; 0 where the soft-shrink has closed it.
    """

    name: str
    spectrum: np.ndarray
    mask: np.ndarray


def masks_over(run: Callable[[], Any], layers: Mapping[str, AdaptiveFrequencyFilter]) -> list[SpectralMask]:
    """The mask of each layer that `run()`, the model on one picture, calls; of a batch, the first picture's."""
    seen = observe(run, layers, lambda layer, x, y: mask_of(layer, x[:1]))
    return [SpectralMask(name, *parts) for name, parts in seen.items()]


@torch.no_grad()
def mask_of(layer: AdaptiveFrequencyFilter, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(spectrum, mask) as in `SpectralMask` of a layer for its input, a batch of one."""
    x = (to_bchw(x) if layer.channels_last else x).float()
    spec = rfft2(x)
    first, second = ((w.to(x.dtype), b.to(x.dtype)) for w, b in ((layer.w1, layer.b1), (layer.w2, layer.b2)))
    mask = torch.complex(*block_mlp(spec.real, spec.imag, first, second, silu, layer.threshold))
    return tuple(centred_magnitude(part[0].cpu().numpy(), x.shape[-1]) for part in (spec, mask))


def centred_magnitude(half: np.ndarray, width: int) -> np.ndarray:
    """Magnitudes over the whole plane, centred, from a half spectrum `(C, H, width // 2 + 1)`: the other half mirrors it."""
    rows, columns = -np.arange(half.shape[1]), np.arange(half.shape[2], width)
    mirrored = half[:, rows][:, :, width - columns]
    return np.fft.fftshift(np.abs(np.concatenate((half, mirrored), -1)), axes=(-2, -1))

"""Functions on tensors; they import only torch.

| module | contents |
|---|---|
| `spectral` | transform, multiply with a filter, transform back: `apply_filter`, `apply_mixture`, `map_spectrum` |
| `resize` | rules that resize a stored filter to another grid: `resize_filter`, `resize_tokens` |
| `complex` | the block-diagonal complex MLP of AFFNet and AFNO: `block_mlp` |
| `cost` | multiply-adds of the spectral layers, by formula |
"""

from mmfreq.ops.complex import block_mlp, soft_shrink
from mmfreq.ops.resize import RESIZE_POLICIES, resize_filter, resize_tokens
from mmfreq.ops.spectral import SPECTRAL_BACKENDS, apply_filter, apply_mixture, half_width, irfft2, map_spectrum, rfft2

__all__ = [
    'RESIZE_POLICIES',
    'SPECTRAL_BACKENDS',
    'apply_filter',
    'apply_mixture',
    'block_mlp',
    'half_width',
    'irfft2',
    'map_spectrum',
    'resize_filter',
    'resize_tokens',
    'rfft2',
    'soft_shrink',
]

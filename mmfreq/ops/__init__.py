"""Functions on tensors; torch only."""

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

"""Functions on tensors; torch only."""

from mmfreq.ops.complex import block_mlp, soft_shrink
from mmfreq.ops.dft import filter_by_matmul
from mmfreq.ops.fft import SPECTRAL_BACKENDS, apply_filter, apply_mixture, map_spectrum
from mmfreq.ops.resize import RESIZE_POLICIES, resize_filter, resize_tokens
from mmfreq.ops.transforms import half_width, irfft2, rfft2

__all__ = [
    'RESIZE_POLICIES',
    'SPECTRAL_BACKENDS',
    'apply_filter',
    'apply_mixture',
    'block_mlp',
    'filter_by_matmul',
    'half_width',
    'irfft2',
    'map_spectrum',
    'resize_filter',
    'resize_tokens',
    'rfft2',
    'soft_shrink',
]

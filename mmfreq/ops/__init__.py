"""Functions on tensors; torch only."""

from mmfreq.ops.dft import filter_by_matmul
from mmfreq.ops.fft import SPECTRAL_BACKENDS, apply_filter, half_width, irfft2, rfft2
from mmfreq.ops.resize import RESIZE_POLICIES, resize_filter

__all__ = [
    'RESIZE_POLICIES',
    'SPECTRAL_BACKENDS',
    'apply_filter',
    'filter_by_matmul',
    'half_width',
    'irfft2',
    'resize_filter',
    'rfft2',
]

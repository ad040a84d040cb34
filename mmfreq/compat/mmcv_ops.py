"""The content of `mmcv._ext` where no compiled one is installed: mmcv's ops on torchvision's kernels and plain torch.

`finder.py` executes this file as the module `mmcv._ext`. The functions follow the calling conventions of mmcv 2.x's Python
side (`mmcv/ops/*.py`): results are written into tensors that the caller hands in, gradients are *added* to them. Whatever is
not listed in `__all__` is a stub that raises `MissingOpError` when called, not when imported.
"""

try:
    import torchvision
except Exception as error:
    raise ImportError(
        f'mmcv has no compiled ops here, and torchvision, whose kernels would stand in, cannot be imported: {error}. '
        'torch and torchvision must come from the same build; run `python -m mmfreq.doctor`'
    ) from error

from mmfreq.compat.mmcv_attention import ms_deform_attn_backward, ms_deform_attn_forward
from mmfreq.compat.mmcv_deform import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmfreq.compat.mmcv_focal import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmfreq.compat.mmcv_missing import missing_op
from mmfreq.compat.mmcv_nms import nms, nms_match, softnms
from mmfreq.compat.mmcv_roi import roi_align_backward, roi_align_forward

__all__ = [
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'nms_match',
    'roi_align_backward',
    'roi_align_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
]


def get_compiler_version():
    """What mmcv's environment report prints as its compiler."""
    return f'none: torchvision {torchvision.__version__} kernels, supplied by mmfreq'


def get_compiling_cuda_version():
    """What mmcv's environment report prints as its CUDA version."""
    cuda = getattr(torchvision.version, 'cuda', None)
    return f'{cuda or "none"}: torchvision {torchvision.__version__} kernels, supplied by mmfreq'


def __getattr__(name):
    if name.startswith('_'):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return missing_op(name)

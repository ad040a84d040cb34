"""One rule for number types: 16-bit floats are computed in float32.

torchvision's CPU kernels know no bfloat16, some know no float16, and neither mixes types. mmcv's callers hand over whatever
autocast left them.
"""

import torch

_WIDE = (torch.float32, torch.float64)


def widen(like, *tensors):
    """`like` and the other tensors in one float type of at least 32 bits: that of `like` if it is wide, float32 otherwise."""
    dtype = like.dtype if like.dtype in _WIDE else torch.float32
    return [tensor.to(dtype) for tensor in (like, *tensors)]

"""What the neck and the head of AFFNet's SSDLite share: the table of levels, and CVNets' layers under their published names.

Legend: B batch, C channels, H W grid.
"""

from collections import OrderedDict
from collections.abc import Sequence

from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import nn

POOLED = -1  # the published 'stride' of the level that is one pixel
STRIDES = (16, 32, 64, 128, 256, POOLED)
# of CVNets' MobileViT; the configuration of the published detection scores is unknown, only that it has more parameters
PROJ_CHANNELS = (512, 256, 256, 128, 128, 64)
BATCH_NORM = dict(type='BN')
RELU = dict(type='ReLU')
INITIAL = dict(type='Xavier', layer='Conv2d', distribution='uniform', bias=0)


def conv_layer(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    norm_cfg: dict | None = None,
    act_cfg: dict | None = None,
) -> nn.Sequential:
    """Convolution, norm if any, activation if any, named `block.conv`, `block.norm`, `block.act`.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))`, for odd kernels.
    """
    block = nn.Sequential()
    block.add_module('conv', nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias))
    if norm_cfg is not None:
        block.add_module('norm', build_norm_layer(norm_cfg, out_channels)[1])
    if act_cfg is not None:
        block.add_module('act', build_activation_layer(act_cfg))
    return nn.Sequential(OrderedDict(block=block))


def separable_layer(in_channels: int, out_channels: int, stride: int, norm_cfg: dict | None, pointwise: dict) -> nn.Sequential:
    """Depth-wise 3x3 with norm and without activation (`dw_conv`), then a 1x1 `conv_layer` (`pw_conv`).

    Args:
        stride, norm_cfg: of the depth-wise convolution.
        pointwise: further arguments of the 1x1 `conv_layer`.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))`.
    """
    depthwise = conv_layer(in_channels, in_channels, 3, stride, groups=in_channels, norm_cfg=norm_cfg)
    return nn.Sequential(OrderedDict(dw_conv=depthwise, pw_conv=conv_layer(in_channels, out_channels, **pointwise)))


def check_levels(**fields: Sequence) -> None:
    """Raise a ValueError where the fields do not all have one entry per level, or a level follows the pooled one."""
    lengths = {name: len(values) for name, values in fields.items()}
    if len(set(lengths.values())) > 1:
        told = ', '.join(f'{length} in {name}' for name, length in lengths.items())
        raise ValueError(f'SSDLite has one entry per level in each of its lists, got {told}; bring them to the same levels')
    if POOLED in (before := tuple(fields['strides'])[:-1]):
        raise ValueError(f'the pooled level (stride {POOLED}) is the last one, got it among {before}; put it at the end of strides')

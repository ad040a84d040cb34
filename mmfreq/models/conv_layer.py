"""`conv_cfg=dict(type='mmfreq.GnConv', ...)`: gnConv for the k > 1 convolutions of any mmcv `ConvModule`."""

import torch
from torch import nn

from mmfreq.layers.gnconv import GnConvLayer, pair
from mmfreq.registry import MODELS


@MODELS.register_module(name='GnConv')
def gnconv_layer(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str | None = None,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    bias: bool = True,
    padding_mode: str = 'zeros',
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **gnconv,
) -> nn.Module:
    """The layer for one convolution: a `GnConvLayer`, or a plain `Conv2d` for 1x1 and for depth-wise ones, which need no other.

    Args:
        in_channels, ..., dtype: as in `Conv2d`. Without a kernel_size it is 7, and the padding keeps the grid.
        **gnconv: `order=2`, `grid=None`, `dim_ratio=1`, `proj_out=True`, `dw_kernel_size=None` and others of `GnConvLayer`; the
            fields of a `conv_cfg` beside its type.

    Raises:
        ValueError: groups other than 1 or in_channels, and what `GnConvLayer` refuses (widths that the order does not divide, even
            kernels, dilation with a grid).
    """
    if padding is None:
        padding = 'same' if kernel_size is None else 0
    kernel_size = 7 if kernel_size is None else kernel_size
    shape = (in_channels, out_channels, kernel_size, stride, padding, dilation)
    if pair(kernel_size) == (1, 1) or groups == in_channels > 1:
        return nn.Conv2d(*shape, groups, bias, padding_mode, device, dtype)
    if groups != 1:
        raise ValueError(
            f'a gnConv has no groups: got groups={groups} for {in_channels} channels, expected 1 or (depth-wise, left as it is) '
            f'{in_channels}; leave conv_cfg out for this convolution'
        )
    with torch.device(device or torch.get_default_device()):
        return GnConvLayer(*shape, bias, padding_mode, **gnconv).to(dtype=dtype)

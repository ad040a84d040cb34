"""gnConv in place of convolutions in OpenMMLab's decoders.

`GnConvModule` replaces a `ConvModule` (conv, norm, activation) in `GnUPerHead`, `GnFPNHead` and `GnFPN`; `gnconv_layer`, registered
as `GnConv`, is the `conv_cfg` for any other decoder.
"""

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import Tensor, nn

from mmfreq.layers import GnConv
from mmfreq.layers.gnconv import GnConvLayer, PaddingMode, pair
from mmfreq.registry import MODELS

GNCONV_CFG = dict(kernel_size=7, grid=None, order=2, dim_ratio=1, proj_out=True)


def gnconv_args(gnconv_cfg: dict | None) -> dict:
    """`GNCONV_CFG` with the given fields replaced.

    Raises:
        ValueError: unknown fields.
    """
    if wrong := sorted(set(gnconv_cfg or {}) - set(GNCONV_CFG)):
        raise ValueError(f'gnconv_cfg has unknown fields {wrong}; it takes {", ".join(GNCONV_CFG)}')
    return GNCONV_CFG | (gnconv_cfg or {})


class GnConvModule(GnConv):
    """`activate(norm(gnconv(x)))`, the `GNConvModule` of the published HorFPN, with its parameter names.

    Args:
        in_channels, out_channels: of the module.
        gnconv_cfg: fields that replace those of `GNCONV_CFG`; `grid=None` is a depth-wise convolution, an integer the side of the
            stored grid of a global-local filter.
        norm_cfg: config of the norm, or None. Batch norm is named `bn`.
        act_cfg: config of the activation, or None.
        stride: 2 halves the grid.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, H', W')`, H' = ceil(H / stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        gnconv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        stride: int = 1,
    ):
        super().__init__(in_channels, out_channels, stride=stride, **gnconv_args(gnconv_cfg))
        self.norm_name = None
        if norm_cfg is not None:
            self.norm_name, norm = build_norm_layer(norm_cfg, out_channels)
            self.add_module(self.norm_name, norm)
        self.activate = nn.Identity() if act_cfg is None else build_activation_layer({'inplace': True, **act_cfg})

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.norm_name is not None:
            y = getattr(self, self.norm_name)(y)
        return self.activate(y)


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
    padding_mode: PaddingMode = 'zeros',
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **gnconv,
) -> nn.Module:
    """Build the layer for `conv_cfg=dict(type='mmfreq.GnConv', ...)` of any mmcv `ConvModule`.

    It is a `GnConvLayer` for k > 1, and a plain `Conv2d` for 1x1 and depth-wise convolutions.

    Args:
        in_channels, ..., dtype: as in `Conv2d`. The default kernel_size is 7, with a padding that keeps the size.
        **gnconv: the other fields of `conv_cfg`: `order=2`, `grid=None`, `dim_ratio=1`, `proj_out=True`, `dw_kernel_size=None` and
            others of `GnConvLayer`.

    Raises:
        ValueError: groups other than 1 or in_channels, and as in `GnConvLayer` (channels not divisible by 2^(order-1), an even
            kernel, a dilation with a grid).
    """
    if padding is None:
        padding = 'same' if kernel_size is None else 0
    kernel_size = 7 if kernel_size is None else kernel_size
    shape = (in_channels, out_channels, kernel_size, stride, padding, dilation)
    if pair(kernel_size) == (1, 1) or groups == in_channels > 1:
        return nn.Conv2d(*shape, groups, bias, padding_mode, device, dtype)
    if groups != 1:
        raise ValueError(
            f'A gnConv has no groups: groups must be 1, or {in_channels} for a depth-wise convolution (which stays a Conv2d), '
            f'got groups={groups}. Remove conv_cfg from this convolution.'
        )
    with torch.device(device or torch.get_default_device()):
        return GnConvLayer(*shape, bias, padding_mode, **gnconv).to(dtype=dtype)

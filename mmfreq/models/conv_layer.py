"""gnConv where OpenMMLab's decoders have a conv + norm + activation module."""

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import Tensor, nn

from mmfreq.layers import GnConv
from mmfreq.layers.gnconv import GnConvLayer, pair
from mmfreq.registry import MODELS

GNCONV_CFG = dict(kernel_size=7, grid=None, order=2, dim_ratio=1, proj_out=True)


def gnconv_args(gnconv_cfg: dict | None) -> dict:
    """`GNCONV_CFG` with the given fields changed.

    Raises:
        ValueError: a field that it does not have.
    """
    if wrong := sorted(set(gnconv_cfg or {}) - set(GNCONV_CFG)):
        raise ValueError(f'gnconv_cfg has unknown fields {wrong}; it takes {", ".join(GNCONV_CFG)}')
    return GNCONV_CFG | (gnconv_cfg or {})


class GnConvModule(GnConv):
    """A `GnConv`, then a norm and an activation (HorFPN; the published decoders' `GNConvModule`, names included).

    Args:
        in_channels, out_channels: of the module.
        gnconv_cfg: fields of `GNCONV_CFG`; `grid=None` is a depth-wise convolution, an integer the spatial side of a
            global-local filter.
        norm_cfg: norm over `out_channels`, or None. Batch norm is named `bn`.
        act_cfg: activation, or None.
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


# `conv_cfg=dict(type='mmfreq.GnConv', ...)`: gnConv for the k > 1 convolutions of any mmcv `ConvModule`.


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

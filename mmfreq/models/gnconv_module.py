"""gnConv where OpenMMLab's decoders have a conv + norm + activation module."""

from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import Tensor, nn

from mmfreq.layers import GnConv

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

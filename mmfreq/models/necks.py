"""FPN whose output convolutions are gnConvs (HorNet, arXiv 2207.14284, section 3.3, 'HorFPN' for detection)."""

from typing import Any

from mmdet.models.necks import FPN
from torch import nn

from mmfreq.models.conv_layer import GnConvModule
from mmfreq.registry import MODELS


@MODELS.register_module()
class GnFPN(FPN):
    """mmdet's `FPN` with a gnConv for each 3x3 convolution of `fpn_convs`; the 1x1 lateral convolutions stay.

    Extra levels (`add_extra_convs`) are gnConvs of stride 2; the reference implementation cannot build them.

    Args:
        gnconv_cfg: fields that replace those of `mmfreq.models.conv_layer.GNCONV_CFG`. The published configs use
            `dict(kernel_size=7)` and `dict(grid=32)`.
        norm_cfg, act_cfg: of laterals and gnConvs; the published configs have neither.
        **kwargs: as in `FPN`; `conv_cfg` applies to the laterals only.

    Shape:
        Levels `(N, C_i, H_i, W_i)` to `num_outs` levels `(N, out_channels, H_i, W_i)` from `start_level` on; each extra level has
        half the size of the one before, rounded up.
    """

    fpn_convs: Any  # mmdet has no type information

    def __init__(
        self,
        in_channels: list[int],
        out_channels: int,
        num_outs: int,
        gnconv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        **kwargs,
    ):
        super().__init__(in_channels, out_channels, num_outs, norm_cfg=norm_cfg, act_cfg=act_cfg, **kwargs)
        self.fpn_convs = nn.ModuleList(
            GnConvModule(conv.in_channels, conv.out_channels, gnconv_cfg, norm_cfg, act_cfg, stride=conv.stride[0])
            for conv in self.fpn_convs
        )

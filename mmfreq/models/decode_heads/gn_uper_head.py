"""UPerNet head whose fusion is a gnConv (HorNet, arXiv 2207.14284, section 3.3, 'HorFPN' for segmentation)."""

from mmseg.models.decode_heads import UPerHead

from mmfreq.models.gnconv_module import GnConvModule
from mmfreq.registry import MODELS


@MODELS.register_module()
class GnUPerHead(UPerHead):
    """mmseg's `UPerHead` with a gnConv for the 3x3 convolution over the concatenated levels (`fpn_bottleneck`) alone.

    Args:
        gnconv_cfg: fields of `mmfreq.models.gnconv_module.GNCONV_CFG`. The published HorFPN configs use
            `dict(kernel_size=7)` and `dict(grid=32)`.
        **kwargs: as in `UPerHead`.

    Shape:
        Levels `(N, C_i, H_i, W_i)` to logits `(N, num_classes, H_0, W_0)`.
    """

    def __init__(self, gnconv_cfg: dict | None = None, **kwargs):
        super().__init__(**kwargs)
        self.fpn_bottleneck = GnConvModule(
            len(self.in_channels) * self.channels,
            self.channels,
            gnconv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )

"""Semantic FPN head of gnConvs: the idea of HorFPN (HorNet, arXiv 2207.14284, section 3.3) in another decoder; not published."""

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import FPNHead

from mmfreq.models.gnconv_module import GnConvModule
from mmfreq.registry import MODELS


@MODELS.register_module()
class GnFPNHead(FPNHead):
    """mmseg's `FPNHead` with a gnConv for each 3x3 convolution.

    Args:
        gnconv_cfg: fields of `mmfreq.models.gnconv_module.GNCONV_CFG`.
        **kwargs: as in `FPNHead`.

    Shape:
        Levels `(N, C_i, H_i, W_i)` to logits `(N, num_classes, H_0, W_0)`.
    """

    def __init__(self, gnconv_cfg: dict | None = None, **kwargs):
        super().__init__(**kwargs)
        for level in self.scale_heads:
            for i, layer in enumerate(level):
                if isinstance(layer, ConvModule):
                    level[i] = GnConvModule(layer.in_channels, layer.out_channels, gnconv_cfg, self.norm_cfg, self.act_cfg)

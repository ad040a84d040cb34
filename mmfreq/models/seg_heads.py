"""Segmentation heads: mmseg's UPerNet and Semantic FPN heads with gnConvs, and AFFNet's DeepLabv3 head.

Legend: N batch, C channels, H W grid.
"""

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import ASPPHead, FPNHead, UPerHead
from torch import Tensor
from torch.nn import functional as F

from mmfreq.models.conv_layer import GnConvModule
from mmfreq.registry import MODELS

BATCH_NORM = dict(type='BN')


@MODELS.register_module()
class GnUPerHead(UPerHead):
    """mmseg's `UPerHead` with a gnConv for the 3x3 convolution `fpn_bottleneck` over the concatenated levels.

    This is the published HorFPN for segmentation (HorNet, arXiv 2207.14284, section 3.3).

    Args:
        gnconv_cfg: fields that replace those of `mmfreq.models.conv_layer.GNCONV_CFG`. The published HorFPN configs use
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


@MODELS.register_module()
class GnFPNHead(FPNHead):
    """mmseg's `FPNHead` (Semantic FPN) with a gnConv for each 3x3 convolution. Not published.

    Args:
        gnconv_cfg: fields that replace those of `mmfreq.models.conv_layer.GNCONV_CFG`.
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


@MODELS.register_module()
class AFFNetASPPHead(ASPPHead):
    """mmseg's `ASPPHead` as in AFFNet's published segmentation weights (DeepLabv3 of CVNets; arXiv 2307.14008, 1706.05587).

    The pooled branch is last, the bottleneck 1x1, and the logits are resized with corners aligned. Parameter names are those of
    `ASPPHead`; files of the two differ only in the shape of the bottleneck. Published with
    `AFFNet(output_stride=16, out_indices=(3,))`, images divided by 255 without a mean, and no auxiliary head. CVNets' auxiliary
    head is mmseg's `FCNHead` over layer_4 (C4 channels), with `out_indices=(2, 3)`:
    `dict(type='FCNHead', in_channels=C4, in_index=0, channels=max(C4 // 4, 128), num_convs=1, concat_input=False, num_classes=...,
    norm_cfg=dict(type='BN'), align_corners=True, loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4))`.

    Args:
        in_channels: C of the map at `in_index`, by default the last.
        channels: of each branch and of the bottleneck.
        norm_cfg, align_corners, **kwargs: as in `ASPPHead`; `align_corners` applies to the resizing of the logits.

    Shape:
        Maps, of which that at `in_index` is `(N, C, H, W)`, to logits `(N, num_classes, H, W)`.
    """

    def __init__(
        self, in_channels: int, channels: int = 256, norm_cfg: dict | None = BATCH_NORM, align_corners: bool = True, **kwargs
    ):
        super().__init__(in_channels=in_channels, channels=channels, norm_cfg=norm_cfg, align_corners=align_corners, **kwargs)
        self.bottleneck = ConvModule(
            (len(self.dilations) + 1) * self.channels,
            self.channels,
            1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        x = self._transform_inputs(inputs)
        pooled = F.interpolate(self.image_pool(x), x.shape[2:], mode='bilinear', align_corners=False)
        return self.bottleneck(torch.cat((*self.aspp_modules(x), pooled), 1))

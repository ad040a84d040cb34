"""UPerNet head whose fusion is a gnConv (HorNet, arXiv 2207.14284, section 3.3, 'HorFPN' for segmentation)."""

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import ASPPHead, FPNHead, UPerHead
from torch import Tensor
from torch.nn import functional as F

from mmfreq.models.conv_layer import GnConvModule
from mmfreq.registry import MODELS


@MODELS.register_module()
class GnUPerHead(UPerHead):
    """mmseg's `UPerHead` with a gnConv for the 3x3 convolution over the concatenated levels (`fpn_bottleneck`) alone.

    Args:
        gnconv_cfg: fields of `mmfreq.models.conv_layer.GNCONV_CFG`. The published HorFPN configs use
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


# Semantic FPN head of gnConvs: the idea of HorFPN (HorNet, arXiv 2207.14284, section 3.3) in another decoder; not published.


@MODELS.register_module()
class GnFPNHead(FPNHead):
    """mmseg's `FPNHead` with a gnConv for each 3x3 convolution.

    Args:
        gnconv_cfg: fields of `mmfreq.models.conv_layer.GNCONV_CFG`.
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


# DeepLabv3 head as AFFNet's segmentation weights have it (CVNets' layout of mmseg's ASPP head; arXiv 2307.14008, 1706.05587).
#
# Legend: N batch, C channels, H W grid.


BATCH_NORM = dict(type='BN')


@MODELS.register_module()
class AFFNetASPPHead(ASPPHead):
    """mmseg's `ASPPHead` with the pooled branch last, a 1x1 bottleneck, and logits resized with corners aligned.

    Parameter names are `ASPPHead`'s, and files of the two are told apart by the bottleneck's shape alone. Published with
    `AFFNet(output_stride=16, out_indices=(3,))`, images divided by 255 without a mean, and without an auxiliary head; where one is
    wanted, CVNets' is mmseg's `FCNHead` over layer_4 (channels C4), `out_indices=(2, 3)`:
    `dict(type='FCNHead', in_channels=C4, in_index=0, channels=max(C4 // 4, 128), num_convs=1, concat_input=False, num_classes=...,
    norm_cfg=dict(type='BN'), align_corners=True, loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4))`.

    Args:
        in_channels: C of the map at `in_index`, by default the last.
        channels: of each branch and of the bottleneck.
        norm_cfg, align_corners, **kwargs: as in `ASPPHead`. `align_corners` is of the logits' resizing, in training and
            testing; the pooled branch, a single pixel, is the same either way.

    Shape:
        Maps whose chosen one is `(N, C, H, W)` to logits `(N, num_classes, H, W)`.
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

"""DeepLabv3 head as AFFNet's segmentation weights have it (CVNets' layout of mmseg's ASPP head; arXiv 2307.14008, 1706.05587).

Legend: N batch, C channels, H W grid.
"""

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import ASPPHead
from torch import Tensor
from torch.nn import functional as F

from mmfreq.registry import MODELS

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

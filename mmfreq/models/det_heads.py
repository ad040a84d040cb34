"""mmdet's RPN head with a `conv_cfg`, as its other heads have."""

from typing import Any

from mmcv.cnn import build_conv_layer
from mmdet.models.dense_heads import RPNHead
from torch import nn

from mmfreq.registry import MODELS


@MODELS.register_module(name='RPNHead')
class ConvCfgRPNHead(RPNHead):
    """mmdet's `RPNHead` with a `conv_cfg` for its k x k convolutions; without one, the same modules and names.

    Args:
        conv_cfg: as in mmcv's `ConvModule`, for example `dict(type='mmfreq.GnConv')`.
        **kwargs: as in `RPNHead`.

    Shape:
        Levels `(N, in_channels, H_i, W_i)` to scores `(N, anchors, H_i, W_i)` and box deltas `(N, 4 anchors, H_i, W_i)`.
    """

    rpn_conv: Any  # mmdet has no type information

    def __init__(self, *args, conv_cfg: dict | None = None, **kwargs):
        self.conv_cfg = conv_cfg
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.conv_cfg is None:
            return
        if isinstance(self.rpn_conv, nn.Conv2d):
            self.rpn_conv = self.build_conv(self.rpn_conv)
        else:
            for module in self.rpn_conv:
                module.conv = self.build_conv(module.conv)

    def build_conv(self, conv: nn.Conv2d) -> nn.Module:
        """The layer of `conv_cfg` that replaces `conv`."""
        return build_conv_layer(
            self.conv_cfg, conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding, bias=conv.bias is not None
        )

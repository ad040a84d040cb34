"""mmdet's RPN head with the `conv_cfg` that its other heads have."""

from mmcv.cnn import build_conv_layer
from mmdet.models.dense_heads import RPNHead
from torch import nn

from mmfreq.registry import MODELS


@MODELS.register_module(name='RPNHead')
class ConvCfgRPNHead(RPNHead):
    """mmdet's `RPNHead`, whose k x k convolutions `conv_cfg` chooses; without it, the same module and names.

    Args:
        conv_cfg: as in mmcv's `ConvModule`, for example `dict(type='mmfreq.GnConv')`.
        **kwargs: as in `RPNHead`.

    Shape:
        Levels `(N, in_channels, H_i, W_i)` to scores `(N, anchors, H_i, W_i)` and box deltas `(N, 4 anchors, H_i, W_i)`.
    """

    def __init__(self, *args, conv_cfg: dict | None = None, **kwargs):
        self.conv_cfg = conv_cfg
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.conv_cfg is None:
            return
        if isinstance(self.rpn_conv, nn.Conv2d):
            self.rpn_conv = self.chosen(self.rpn_conv)
        else:
            for module in self.rpn_conv:
                module.conv = self.chosen(module.conv)

    def chosen(self, conv: nn.Conv2d) -> nn.Module:
        return build_conv_layer(
            self.conv_cfg, conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding, bias=conv.bias is not None
        )

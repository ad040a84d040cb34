"""Neck of AFFNet's SSDLite detector (CVNets' extra layers; arXiv 2307.14008, 1801.04381 for SSDLite).

Legend: B batch, C channels, H W grid.
"""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmfreq.models.ssdlite_layers import (
    BATCH_NORM,
    INITIAL,
    POOLED,
    PROJ_CHANNELS,
    RELU,
    STRIDES,
    check_levels,
    conv_layer,
    separable_layer,
)
from mmfreq.registry import MODELS


@MODELS.register_module()
class AFFNetSSDLiteNeck(BaseModule):
    """The backbone's last maps as they are, and further levels made of the last one, each of the one before.

    A level is a separable convolution of stride 2; the pooled one (stride -1) a mean over the map and a 1x1 convolution without
    norm.

    Args:
        in_channels: of the backbone's maps; published layer_4 and layer_5, `AFFNet(out_indices=(2, 3))`.
        proj_channels: one per level, as in the head. Those of the first levels are the head's projections and without effect here.
        strides: one per level, doubling, -1 for a pooled last one. Beyond the backbone's they name the layers, as published.
        norm_cfg, act_cfg: of the extra levels. Published ReLU in every related configuration; AFFNet's own is not.
        init_cfg: as in `BaseModule`; by default the published Xavier initialisation.

    Shape:
        `(B, C_i, H_i, W_i)` for each of `in_channels` to these and one `(B, proj_channels[i], H_i, W_i)` for each further level,
        where H_i = ceil(H_{i-1} / 2), and 1x1 for the pooled one.

    Raises:
        ValueError: lists of different lengths, no further level, strides that do not double, a level after the pooled one; in
            forward another number of maps.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        proj_channels: Sequence[int] = PROJ_CHANNELS,
        strides: Sequence[int] = STRIDES,
        norm_cfg: dict | None = BATCH_NORM,
        act_cfg: dict | None = RELU,
        init_cfg: dict | list[dict] | None = INITIAL,
    ):
        super().__init__(init_cfg)
        check_levels(proj_channels=proj_channels, strides=strides)
        given = len(in_channels)
        if not 0 < given < len(strides):
            raise ValueError(
                f'got {given} maps of the backbone in in_channels, expected 1 to {len(strides) - 1} for {len(strides)} strides; '
                f'lengthen strides and proj_channels or take fewer maps'
            )
        self.in_channels = tuple(in_channels)
        self.out_channels = (*in_channels, *proj_channels[given:])
        self.extra_layers = nn.ModuleDict()
        for i in range(given, len(strides)):
            channels, width = self.out_channels[i - 1], self.out_channels[i]
            if strides[i] == POOLED:
                layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_layer(channels, width, act_cfg=act_cfg))
            elif strides[i] == 2 * strides[i - 1]:
                layer = separable_layer(channels, width, 2, norm_cfg, dict(norm_cfg=norm_cfg, act_cfg=act_cfg))
            else:
                raise ValueError(
                    f'got stride {strides[i]} after {strides[i - 1]}, expected {2 * strides[i - 1]}, or {POOLED} for the pooled '
                    f'level; change strides'
                )
            self.extra_layers[f'os_{strides[i]}'] = layer

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(inputs) != len(self.in_channels):
            raise ValueError(
                f'got {len(inputs)} maps, expected {len(self.in_channels)}, of {self.in_channels} channels; '
                f'set out_indices of the backbone'
            )
        maps = list(inputs)
        for layer in self.extra_layers.values():
            maps.append(layer(maps[-1]))
        return tuple(maps)

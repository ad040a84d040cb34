"""RoI pooling from a pyramid without data-dependent shapes, as mmdetection's `SingleRoIExtractor`."""

from typing import Any

import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn
from torchvision.ops import roi_align

from mmfreq.export.detectors.parts import expect, expect_part


class RoIPooling(nn.Module):
    """Pools each box from the map of its level.

    Each map is pooled for all boxes, because the number of boxes at a level is not known in the graph. At other levels than its own
    a box is replaced by an empty one: with `sampling_ratio=0` the number of samples grows with the area of the box.

    Args:
        extractor: a `SingleRoIExtractor` of mmdetection with `RoIAlign` layers.

    Shape:
        P boxes `(P, 4)` x1 y1 x2 y2 in pixels of the image and maps `(1, C, H_i, W_i)`, of which those after the last stride are
        not used, to `(P, C, h, w)` in the dtype of the maps. Pooling is in float32.

    Raises:
        UserError: another extractor, another layer, or maximum pooling.
    """

    def __init__(self, extractor: Any):
        super().__init__()
        layer = _checked_layer(extractor)
        self.scales = tuple(1 / stride for stride in extractor.featmap_strides)
        self.finest_scale = extractor.finest_scale
        self.output_size, self.aligned = tuple(layer.output_size), layer.aligned
        self.sampling_ratio = max(layer.sampling_ratio, 0)

    def forward(self, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        levels = self.levels_of(boxes)
        pooled = self.pool(maps[0], torch.where((levels == 0)[:, None], boxes, 0.0), 0)
        for level in range(1, len(self.scales)):
            here = levels == level
            values = self.pool(maps[level], torch.where(here[:, None], boxes, 0.0), level)
            pooled = torch.where(here[:, None, None, None], values, pooled)
        return pooled.to(maps[0].dtype)

    def levels_of(self, boxes: Tensor) -> Tensor:
        """The level of each box, (P,) float32: 0 for a side up to twice the finest scale, one more each time it doubles."""
        sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        return (sides / self.finest_scale + 1e-6).log2().floor().clamp(0, len(self.scales) - 1)

    def pool(self, features: Tensor, boxes: Tensor, level: int) -> Tensor:
        """(P, C, h, w) float32 from the map of a level."""
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)  # of image 0
        return roi_align(features.float(), rois, self.output_size, self.scales[level], self.sampling_ratio, self.aligned)


def _checked_layer(extractor: Any) -> RoIAlign:
    """The RoIAlign layer of the first level."""
    expect_part(extractor, (SingleRoIExtractor,), ('forward', 'map_roi_levels'), 'RoI extractor')
    layer = extractor.roi_layers[0]
    expect_part(layer, (RoIAlign,), ('forward',), 'layer of the RoI extractor')
    expect(layer.pool_mode == 'avg', "RoIAlign with pool_mode='avg'", f"pool_mode='{layer.pool_mode}'")
    return layer

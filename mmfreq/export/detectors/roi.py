"""The second stage of mmdetection's Faster, Mask and Cascade R-CNN with fixed shapes: from proposals to boxes and masks.

Legend: P proposals, K classes, M boxes that are returned.
"""

from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from torch import Tensor, nn

from mmfreq.export.detectors.boxes import MASKED, above, decoder_of, filter_of, kept_boxes
from mmfreq.export.detectors.parts import expect, expect_part
from mmfreq.export.detectors.roi_pooling import RoIPooling

ROI_HEAD = ('predict', 'predict_bbox', 'predict_mask', '_bbox_forward', '_mask_forward', '_refine_roi')
BOX_HEAD = ('predict_by_feat', '_predict_by_feat_single', 'regress_by_class')
MASK_HEAD = ('predict_by_feat', '_predict_by_feat_single')


class BoxStage(nn.Module):
    """A box head with its RoI pooling; Cascade R-CNN has several.

    Args:
        extractor, head: mmdetection's `SingleRoIExtractor` and `BBoxHead`.

    Shape:
        maps `(1, C, H_i, W_i)` and boxes `(P, 4)` to logits `(P, K + 1)`, the last for no object, and offsets `(P, K, 4)`, or
        `(P, 1, 4)` if they are the same for all classes, in float32.
    """

    def __init__(self, extractor: nn.Module, head: Any):
        super().__init__()
        _check_box_head(head)
        self.pool, self.head = RoIPooling(extractor), head
        self.decode = decoder_of(head.bbox_coder)

    def forward(self, maps: tuple[Tensor, ...], boxes: Tensor) -> tuple[Tensor, Tensor]:
        logits, offsets = self.head(self.pool(maps, boxes))
        return logits.float(), offsets.float().unflatten(1, (-1, 4))

    def boxes_of_classes(self, boxes: Tensor, offsets: Tensor, image_size: Tensor) -> Tensor:
        """The box of each proposal and class, (P, K or 1, 4)."""
        count = offsets.shape[1]
        decoded = self.decode(boxes.repeat_interleave(count, 0), offsets.flatten(0, 1), image_size)
        return decoded.unflatten(0, (-1, count))

    def refined(self, boxes: Tensor, logits: Tensor, offsets: Tensor, image_size: Tensor) -> Tensor:
        """The box of each proposal and its best class, (P, 4): the proposals of the next stage."""
        if offsets.shape[1] > 1:
            best = logits[:, :-1].argmax(1)
            offsets = offsets.gather(1, best[:, None, None].expand(-1, 1, 4))
        return self.decode(boxes, offsets[:, 0], image_size)


class MaskStage(nn.Module):
    """A mask head with its RoI pooling.

    Args:
        extractor, head: mmdetection's `SingleRoIExtractor` and `FCNMaskHead`.

    Shape:
        maps `(1, C, H_i, W_i)`, boxes `(M, 4)` and labels `(M,)` to the probabilities of each box's class `(M, h, w)`, float32.
    """

    def __init__(self, extractor: nn.Module, head: Any):
        super().__init__()
        expect_part(head, (FCNMaskHead,), MASK_HEAD, 'mask head')
        expect(head.upsample_method != 'carafe', 'a mask head with a deconvolution or interpolation', 'CARAFE')
        self.pool, self.head = RoIPooling(extractor), head

    def forward(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        return self.of_labels(self.head(self.pool(maps, boxes)), labels)

    def of_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Probabilities `(M, h, w)` of the boxes' classes from the logits of all classes."""
        if not self.head.class_agnostic:
            logits = logits.gather(1, labels.clamp(min=0)[:, None, None, None].expand(-1, 1, *logits.shape[2:]))
        return logits[:, 0].float().sigmoid()


class RoIGraph(nn.Module):
    """A RoI head of mmdetection: boxes of the last stage with the mean scores of all, NMS, and masks of the boxes that remain.

    Args:
        roi_head: a `StandardRoIHead` or `CascadeRoIHead`.
        max_boxes: M; None for that of the config.
        score: threshold of scores; None for that of the config.

    Shape:
        maps `(1, C, H_i, W_i)`, proposals `(P, 4)`, their number `()` int64 and image_size `(2,)` int64, (H, W), to boxes `(M, 4)`,
        scores `(M,)`, labels `(M,)` int64, their number `()` int64 and, with a mask head, masks `(M, h, w)`. Rows after that
        number are 0, their labels -1.

    Raises:
        UserError: a part that is not supported.
    """

    def __init__(self, roi_head: Any, max_boxes: int | None = None, score: float | None = None):
        super().__init__()
        expect_part(roi_head, (StandardRoIHead, CascadeRoIHead), ROI_HEAD, 'RoI head')
        expect(
            not roi_head.with_shared_head, 'a RoI head without a shared head', type(getattr(roi_head, 'shared_head', None)).__name__
        )
        self.filter = filter_of(roi_head.test_cfg, 'the RoI head').changed(max_boxes, score)
        self.stages = nn.ModuleList(map(BoxStage, _list(roi_head.bbox_roi_extractor), _list(roi_head.bbox_head)))
        masks = map(MaskStage, _list(roi_head.mask_roi_extractor), _list(roi_head.mask_head)) if roi_head.with_mask else ()
        self.mask_stages = nn.ModuleList(masks)

    def forward(self, maps: tuple[Tensor, ...], proposals: Tensor, count: Tensor, image_size: Tensor) -> tuple[Tensor, ...]:
        scores, candidates = self.candidates(maps, proposals, image_size)
        scores = torch.where((torch.arange(len(proposals), device=scores.device) < count)[:, None], scores, MASKED)
        labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        scores = above(scores.flatten(), self.filter.score)
        boxes, scores, labels, count = kept_boxes(candidates.flatten(0, 1), scores, labels.flatten(), self.filter)
        outputs = boxes, scores, labels, count
        return (*outputs, self.masks(maps, boxes, labels)) if self.mask_stages else outputs

    def candidates(self, maps: tuple[Tensor, ...], boxes: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (P, K) and boxes (P, K, 4) of all proposals and classes, before NMS."""
        total: Tensor | float = 0.0
        for index, stage in enumerate(self.stages):
            logits, offsets = stage(maps, boxes)
            total = total + logits
            if index + 1 < len(self.stages):
                boxes = stage.refined(boxes, logits, offsets, image_size)
        scores = (total / len(self.stages)).softmax(1)[:, :-1]
        return scores, stage.boxes_of_classes(boxes, offsets, image_size).expand(-1, scores.shape[1], 4)

    def masks(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """Mean probabilities of the stages, (M, h, w), 0 for boxes that do not count."""
        mean = sum(stage(maps, boxes, labels) for stage in self.mask_stages) / len(self.mask_stages)
        return torch.where((labels >= 0)[:, None, None], mean, 0.0)


def _list(parts: Any) -> list[nn.Module]:
    """The part of each stage; a `StandardRoIHead` has one."""
    return list(parts) if isinstance(parts, nn.ModuleList) else [parts]


def _check_box_head(head: Any) -> None:
    """Raise a UserError for a head whose scores or boxes are computed in another way than here."""
    expect_part(head, (BBoxHead,), BOX_HEAD, 'box head')
    expect(head.with_cls and head.with_reg, 'a box head with classification and regression', 'one of the two')
    loss = type(head.loss_cls).__name__
    expect(not (head.custom_cls_channels or head.custom_activation), 'a box head with softmax', f'the activation of {loss}')

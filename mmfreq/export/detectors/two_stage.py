"""Two-stage detectors of mmdetection as one module: from images to a fixed number of boxes, and masks if there is a mask head.

Faster R-CNN, Mask R-CNN and Cascade (Mask) R-CNN, batch 1. Parts with predictions of their own (HTC, PointRend, guided anchors,
soft-NMS ...) are rejected by name when the module is built.

Legend: P proposals, M boxes that are returned.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import TwoStageDetector
from torch import Tensor, nn

from mmfreq.export.detectors.boxes import best, decoder_of, filter_of, kept_boxes, large, rows
from mmfreq.export.detectors.parts import expect, expect_part
from mmfreq.export.detectors.priors import priors_of
from mmfreq.export.detectors.reference import outputs_of, predict
from mmfreq.export.detectors.roi import RoIGraph

DETECTOR = ('predict', 'extract_feat')
RPN = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')


class ProposalGraph(nn.Module):
    """The region proposal network: the best boxes of each level, then NMS within levels.

    Args:
        head: an `RPNHead` of mmdetection.

    Shape:
        maps `(1, C, H_i, W_i)`, images `(1, C_in, H, W)` and image_size `(2,)` int64 to proposals `(P, 4)` and their number `()`
        int64. Rows after that number are 0.
    """

    def __init__(self, head: Any):
        super().__init__()
        expect_part(head, (RPNHead,), RPN, 'RPN head')
        self.head = head
        self.priors, self.decode = priors_of(head.prior_generator), decoder_of(head.bbox_coder)
        self.filter = replace(filter_of(head.test_cfg, 'the RPN head'), score=None)  # mmdetection ignores score_thr here

    def forward(self, maps: tuple[Tensor, ...], images: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor]:
        levels = [
            self.candidates(logits, offsets, priors(logits, images), image_size)
            for logits, offsets, priors in zip(*self.head(maps), self.priors, strict=True)
        ]
        groups = torch.cat([torch.full_like(scores, index, dtype=torch.int64) for index, (_, scores) in enumerate(levels)])
        boxes, scores = (torch.cat(tensors) for tensors in zip(*levels, strict=True))
        boxes, _, _, count = kept_boxes(boxes, large(boxes, scores, self.filter.side), groups, self.filter)
        return boxes, count

    def candidates(self, logits: Tensor, offsets: Tensor, priors: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and scores of the best anchors of a level."""
        logits, offsets = rows(logits, self.head.cls_out_channels), rows(offsets, 4)
        scores = logits.sigmoid() if self.head.use_sigmoid_cls else logits.softmax(1)  # of an object, or of an object and none
        scores, chosen = best(scores[:, 0], self.filter.before_nms)
        return self.decode(priors[chosen], offsets[chosen], image_size), scores


class TwoStageGraph(nn.Module):
    """A two-stage detector of mmdetection, as its `predict` with boxes in pixels of `images`.

    Args:
        detector: a `TwoStageDetector` with an RPN.
        max_boxes: M; None for `max_per_img` of the config.
        score: threshold of scores; None for `score_thr` of the config.

    Shape:
        images `(1, C_in, H, W)`, normalized and padded, and image_size `(2,)` int64, their (H, W) without the padding, to boxes
        `(M, 4)`, scores `(M,)`, labels `(M,)` int64, their number `()` int64 and, with a mask head, masks `(M, h, w)`: the
        probabilities inside each box. Rows after that number are 0, their labels -1.

    Raises:
        UserError: a part that is not supported.
    """

    input_names = ('images', 'image_size')
    open_axes = ('height', 'width')

    def __init__(self, detector: Any, max_boxes: int | None = None, score: float | None = None):
        super().__init__()
        expect_part(detector, (TwoStageDetector,), DETECTOR, 'detector')
        expect(detector.with_rpn, 'a detector with an RPN', 'precomputed proposals')
        self.detector = detector
        self.proposals, self.regions = ProposalGraph(detector.rpn_head), RoIGraph(detector.roi_head, max_boxes, score)
        masks = ('masks',) if self.regions.mask_stages else ()
        self.output_names = ('boxes', 'scores', 'labels', 'count', *masks)

    def further_inputs(self, images: Tensor) -> tuple[Tensor]:
        """The image size, if the images are not padded."""
        return (torch.tensor(images.shape[2:]),)

    def forward(self, images: Tensor, image_size: Tensor) -> tuple[Tensor, ...]:
        maps = self.detector.extract_feat(images)
        return self.regions(maps, *self.proposals(maps, images, image_size), image_size)

    @torch.no_grad()
    def predict(self, images: Tensor, image_size: Sequence[int]) -> tuple[Tensor, ...]:
        """Boxes, scores, labels and, with a mask head, masks of mmdetection's own `predict`, as many as it detects.

        The masks are the probabilities that mmdetection resizes to the boxes.
        """
        stages = self.regions.mask_stages
        with outputs_of([stage.head for stage in stages]) as logits:
            found = predict(self.detector, self.detector.roi_head, self.regions.filter, images, image_size)
        boxes = found.bboxes, found.scores, found.labels
        if not stages:
            return boxes
        masks = [stage.of_labels(x, found.labels) for stage, x in zip(stages, logits, strict=False)]  # no logits without boxes
        return (*boxes, sum(masks) / len(masks) if masks else images.new_zeros(0, 1, 1))

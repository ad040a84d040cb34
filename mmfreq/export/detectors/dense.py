"""One-stage detectors as modules to export: from images to a fixed number of boxes.

| module | detectors |
|---|---|
| `DenseGraph` | all whose head has the post-processing of mmdetection's `BaseDenseHead`: RetinaNet, FCOS, ATSS, SSD |
| `SSDLiteGraph` | AFFNet's SSDLite |

Legend: K classes, P priors of all levels, M boxes that are returned.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from torch import Tensor, nn

import mmfreq.compat.mmdet_ssd  # noqa: F401  (SSDHead cannot predict without it)
from mmfreq.errors import UserError
from mmfreq.export.detectors.boxes import MASKED, above, best, clipped, decoder_of, filter_of, kept_boxes, large, rows
from mmfreq.export.detectors.priors import priors_of
from mmfreq.export.detectors.reference import predict
from mmfreq.models.ssdlite import AFFNetSSDLiteHead

POST_PROCESSING = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')


def dense_graph(detector: nn.Module, max_boxes: int | None = None, score: float | None = None) -> 'DenseGraph':
    """The module to export for a one-stage detector of mmdetection.

    Args:
        max_boxes, score: number of boxes and score threshold in place of `max_per_img` and `score_thr` of the test_cfg.

    Raises:
        UserError: the detector has another kind of post-processing, prior generator, box coder or NMS than those supported.
    """
    name, head = type(detector).__name__, getattr(detector, 'bbox_head', None)
    if head is None or getattr(type(detector), 'predict', None) is not SingleStageDetector.predict:
        raise UserError(
            f"Expected a SingleStageDetector for the output 'boxes', found {name}. Export another output, such as 'features'."
        )
    if type(head) is AFFNetSSDLiteHead:
        return SSDLiteGraph(detector, max_boxes, score)
    own = [method for method in POST_PROCESSING if getattr(type(head), method, None) is not getattr(BaseDenseHead, method)]
    own += ['custom_cls_channels'] if getattr(getattr(head, 'loss_cls', None), 'custom_cls_channels', False) else []
    if own:
        raise UserError(
            f"Expected a head with the post-processing of mmdetection's BaseDenseHead, found {type(head).__name__}, which has its "
            f"own {', '.join(own)}. Export another output, such as 'raw'."
        )
    return DenseGraph(detector, max_boxes, score)


class DenseGraph(nn.Module):
    """A one-stage detector up to the boxes that remain after NMS, as its `predict` computes them for one image.

    Args:
        detector: a `SingleStageDetector`.
        max_boxes, score: in place of those in the test_cfg.

    Shape:
        `(1, C_in, H, W)` normalized and padded images and `(2,)` int64, the (H, W) before padding, to boxes `(M, 4)` in pixels of
        the images, scores `(M,)` in falling order, labels `(M,)` int64 and the number of valid rows `()` int64. Other rows are 0,
        their labels -1.
    """

    input_names = ('images', 'image_size')
    output_names = ('boxes', 'scores', 'labels', 'count')
    open_axes = ('height', 'width')  # with open sizes; one image

    def __init__(self, detector: nn.Module, max_boxes: int | None = None, score: float | None = None):
        super().__init__()
        self.detector = detector
        head = detector.bbox_head
        self.priors, self.decode = priors_of(head.prior_generator), decoder_of(head.bbox_coder)
        self.chosen = filter_of(head.test_cfg, type(head).__name__).changed(max_boxes, score)

    def further_inputs(self, images: Tensor) -> tuple[Tensor]:
        """The image size, if the images are not padded."""
        return (torch.tensor(images.shape[2:]),)

    def forward(self, images: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = self.detector.bbox_head(self.detector.extract_feat(images))
        return kept_boxes(*self.candidates(maps, images, image_size), self.chosen)

    def candidates(self, maps: Sequence[Sequence[Tensor]], images: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of the best candidates of each level."""
        found = [self.of_level(i, *level, images, image_size) for i, level in enumerate(zip(*maps, strict=True))]
        boxes, scores, labels = (torch.cat(values) for values in zip(*found, strict=True))
        return boxes, large(boxes, scores, self.chosen.side), labels

    def of_level(self, index: int, scores: Tensor, offsets: Tensor, *further: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of the best candidates of a level."""
        *factors, images, image_size = further
        classes = self.activated(rows(scores, self.detector.bbox_head.cls_out_channels))
        values, cells = best(above(classes, self.chosen.score or 0.0).flatten(), self.chosen.before_nms)
        prior = torch.div(cells, classes.shape[1], rounding_mode='trunc')
        labels = cells - prior * classes.shape[1]  # fewer operators in ONNX than // and %
        boxes = self.decode(self.priors[index](scores, images)[prior], rows(offsets, 4)[prior], image_size)
        for factor in factors:  # centerness
            values = torch.where(values >= 0, values * rows(factor, 1)[prior, 0].sigmoid(), MASKED)
        return boxes, values, labels

    def activated(self, logits: Tensor) -> Tensor:
        """Scores `(N, K)` of logits, the background's removed if there is one."""
        return logits.sigmoid() if self.detector.bbox_head.use_sigmoid_cls else logits.softmax(1)[:, :-1]

    def predict(self, images: Tensor, image_size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of mmdetection's own `predict`, with the number of boxes and the threshold of this graph."""
        found = predict(self.detector, self.detector.bbox_head, self.chosen, images, image_size)
        return found.bboxes, found.scores, found.labels


class SSDLiteGraph(DenseGraph):
    """AFFNet's SSDLite: the best anchors of each class over all levels, NMS, then clipping to the image."""

    def __init__(self, detector: nn.Module, max_boxes: int | None = None, score: float | None = None):
        super().__init__(detector, max_boxes, score)
        self.decode = replace(self.decode, clip=False)

    def forward(self, images: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        boxes, *others = super().forward(images, image_size)
        return clipped(boxes, image_size), *others

    def candidates(self, maps: Sequence[Sequence[Tensor]], images: Tensor, image_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        head = self.detector.bbox_head
        scores, offsets = (
            torch.cat([rows(level, width) for level in levels]) for levels, width in zip(maps, (head.cls_out_channels, 4))
        )
        anchors = torch.cat([priors(level, images) for priors, level in zip(self.priors, maps[0], strict=True)])
        scores = self.activated(scores)
        scores, anchor = scores.topk(torch.sym_min(self.chosen.before_nms or scores.shape[0], scores.shape[0]), 0)
        boxes = self.decode(anchors, offsets, image_size)[anchor.flatten()]
        labels = torch.arange(head.num_classes, device=scores.device).expand_as(scores).flatten()
        return boxes, large(boxes, above(scores, self.chosen.score).flatten(), self.chosen.side), labels

"""From box offsets and scores to a fixed number of boxes, as mmdetection computes them, with shapes that do not depend on values.

mmdetection removes boxes below the score threshold before the next step. Here their scores are set to `MASKED`, and NMS drops all
of them when it looks at its first box.

Legend: N candidate boxes (x1, y1, x2, y2) in pixels, M boxes that are returned.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np
import torch
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder
from torch import Tensor
from torchvision.ops import nms

from mmfreq.errors import UserError

MASKED = -1.0  # score of a box that does not count; scores are in 0..1
SMALLEST_RATIO = 16 / 1000  # of the sides of a decoded box and its anchor; mmdetection's default, which no config can change
NMS_KEYS = ('type', 'iou_threshold', 'iou_thr', 'class_agnostic', 'split_thr')

Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]  # (priors, offsets, image_size) to boxes


def decoder_of(coder: Any) -> Decoder:
    """The decoder of a box coder of mmdetection: from priors, offsets `(N, 4)` and the image's (H, W) to boxes `(N, 4)`.

    Raises:
        UserError: a coder other than `DeltaXYWHBBoxCoder` and `DistancePointBBoxCoder`.
    """
    if type(coder) is DeltaXYWHBBoxCoder:
        clamp = float(coder.ctr_clamp) if coder.add_ctr_clamp else None
        return DeltaDecoder(tuple(coder.means), tuple(coder.stds), bool(coder.clip_border), clamp)
    if type(coder) is DistancePointBBoxCoder:
        return DistanceDecoder(coder.clip_border is not False)
    raise UserError(
        'Expected a detector with the box coder DeltaXYWHBBoxCoder or DistancePointBBoxCoder, found '
        f"{type(coder).__name__}. Export another output, such as 'features'."
    )


@dataclass(frozen=True)
class DeltaDecoder:
    """Boxes from anchors and offsets (dx, dy, log of the ratio of widths, of heights), as `DeltaXYWHBBoxCoder.decode`.

    Attributes:
        means, stds: of the four offsets.
        clip: move corners outside the image to its border.
        center_clamp: largest distance of a box's center from its anchor's in pixels; None for any distance.
    """

    means: tuple[float, ...] = (0.0,) * 4
    stds: tuple[float, ...] = (1.0,) * 4
    clip: bool = True
    center_clamp: float | None = None

    def __call__(self, anchors: Tensor, offsets: Tensor, image_size: Tensor) -> Tensor:
        offsets = offsets * offsets.new_tensor(self.stds) + offsets.new_tensor(self.means)
        centers = (anchors[:, :2] + anchors[:, 2:]) * 0.5
        sides = anchors[:, 2:] - anchors[:, :2]
        shift, limit = sides * offsets[:, :2], -log(SMALLEST_RATIO)
        if self.center_clamp is None:
            stretch = offsets[:, 2:].clamp(-limit, limit)
        else:
            shift, stretch = shift.clamp(-self.center_clamp, self.center_clamp), offsets[:, 2:].clamp(max=limit)
        centers, half = centers + shift, sides * stretch.exp() * 0.5
        boxes = torch.cat((centers - half, centers + half), 1)
        return clipped(boxes, image_size) if self.clip else boxes


@dataclass(frozen=True)
class DistanceDecoder:
    """Boxes from points and the distances to their left, top, right and bottom borders, as `DistancePointBBoxCoder.decode`.

    Attributes:
        clip: move corners outside the image to its border.
    """

    clip: bool = True

    def __call__(self, points: Tensor, distances: Tensor, image_size: Tensor) -> Tensor:
        boxes = torch.cat((points - distances[:, :2], points + distances[:, 2:]), 1)
        return clipped(boxes, image_size) if self.clip else boxes


def clipped(boxes: Tensor, image_size: Tensor) -> Tensor:
    """Boxes `(N, 4)` with their corners moved into the image.

    Args:
        image_size: (H, W) int64.
    """
    return boxes.clamp(min=0).minimum(image_size.flip(0).repeat(2).to(boxes.dtype))


@dataclass(frozen=True)
class BoxFilter:
    """Which boxes remain: the fields of a `test_cfg` of mmdetection.

    Attributes:
        max_boxes: M, number of boxes that are returned (max_per_img).
        iou: boxes that overlap a better box of their group by more are dropped (nms.iou_threshold).
        score: boxes with at most this score are dropped (score_thr); None keeps every score.
        before_nms: number of best candidates of each level (nms_pre); None for all.
        side: boxes with a width or height of at most this are dropped (min_bbox_size); None keeps every box.
        one_group: NMS between all boxes, not between those of one group (nms.class_agnostic).
        split_from: from this number of boxes, NMS keeps groups apart even if boxes have negative coordinates (nms.split_thr).
    """

    max_boxes: int
    iou: float
    score: float | None = None
    before_nms: int | None = None
    side: float | None = None
    one_group: bool = False
    split_from: int = 10000

    def changed(self, max_boxes: int | None = None, score: float | None = None) -> 'BoxFilter':
        """With another number of boxes or score threshold; None does not change it.

        Raises:
            UserError: the number of boxes is not positive, or the threshold is not a probability.
        """
        if max_boxes is not None and max_boxes <= 0:
            raise UserError(f'Expected a positive number of boxes, got {max_boxes}.')
        if score is not None and not 0 <= score <= 1:
            raise UserError(f'Expected a score threshold from 0 to 1, got {score}.')
        values = {'max_boxes': max_boxes, 'score': score}
        return replace(self, **{name: value for name, value in values.items() if value is not None})


def filter_of(cfg: Mapping[str, Any], owner: str) -> BoxFilter:
    """The filter of a `test_cfg`.

    Args:
        owner: what the config belongs to, for the error message.

    Raises:
        UserError: no NMS, another type than 'nms', an option of NMS that is not supported, no `max_per_img`.
    """
    options = cfg.get('nms') or {'type': None}
    if options.get('type', 'nms') != 'nms':
        raise UserError(f"Expected nms of type 'nms' in the test_cfg of {owner}, found {options['type']!r}. Change model.test_cfg.")
    if unknown := [key for key in options if key not in NMS_KEYS]:
        raise UserError(
            f'Expected only {", ".join(NMS_KEYS)} in nms of the test_cfg of {owner}, found {", ".join(unknown)}. Remove them.'
        )
    iou = options.get('iou_threshold', options.get('iou_thr'))
    if iou is None:
        raise UserError(f'Expected iou_threshold in nms of the test_cfg of {owner}, found none. Set it.')
    max_boxes, before_nms = cfg.get('max_per_img', -1), cfg.get('nms_pre', -1)
    if max_boxes <= 0:
        raise UserError(f'Expected a positive max_per_img in the test_cfg of {owner}, found {max_boxes}. Set it.')
    return BoxFilter(
        max_boxes=max_boxes,
        iou=float(
            np.float32(options['iou_threshold'] if 'iou_threshold' in options else options['iou_thr'])
        ),  # as in ONNX and mmcv
        score=cfg.get('score_thr'),
        before_nms=before_nms if before_nms > 0 else None,
        side=cfg['min_bbox_size'] if cfg.get('min_bbox_size', -1) >= 0 else None,
        one_group=options.get('class_agnostic', False),
        split_from=options.get('split_thr', 10000),
    )


def rows(level: Tensor, width: int) -> Tensor:
    """A map `(1, A width, H, W)` as float32 rows `(H W A, width)`, in the order of the anchors."""
    return level[0].permute(1, 2, 0).reshape(-1, width).float()


def above(scores: Tensor, threshold: float | None) -> Tensor:
    """The scores, those of at most `threshold` replaced by `MASKED`."""
    return scores if threshold is None else torch.where(scores > threshold, scores, MASKED)


def best(scores: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """The `count` largest of `(N,)` scores, and their indices, in falling order; all if there are fewer or `count` is None."""
    total = scores.shape[0]
    return scores.topk(total if count is None else torch.sym_min(count, total))


def large(boxes: Tensor, scores: Tensor, side: float | None) -> Tensor:
    """The scores `(N,)`, those of boxes with a side of at most `side` replaced by `MASKED`."""
    return scores if side is None else torch.where((boxes[:, 2:] - boxes[:, :2] > side).all(1), scores, MASKED)


def kept_boxes(boxes: Tensor, scores: Tensor, groups: Tensor, chosen: BoxFilter) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes that remain after NMS, in the order of their scores.

    Args:
        scores: in 0..1, or `MASKED`.
        groups: labels or levels, from 0; boxes of two groups do not suppress each other.

    Shape:
        boxes `(N, 4)`, scores `(N,)` and groups `(N,)` int64 to boxes `(M, 4)`, scores `(M,)`, groups `(M,)` and their number `()`
        int64. Rows after that number have the boxes and scores 0 and the group -1.
    """
    kept = _nms(*_apart(boxes, scores, groups, chosen), scores, chosen.iou)
    count = chosen.max_boxes
    scores = torch.cat((scores[kept], scores.new_full((count,), MASKED)))[:count]
    valid = scores >= 0
    boxes = torch.cat((boxes[kept], boxes.new_zeros(count, 4)))[:count]
    groups = torch.cat((groups[kept], groups.new_full((count,), -1)))[:count]
    if chosen.iou >= 1:  # then NMS keeps the masked boxes too
        boxes, groups = torch.where(valid[:, None], boxes, 0.0), torch.where(valid, groups, -1)
    return boxes, torch.where(valid, scores, 0.0), groups, valid.sum()


def _apart(boxes: Tensor, scores: Tensor, groups: Tensor, chosen: BoxFilter) -> tuple[Tensor, Tensor]:
    """Boxes `(N, 4)` to compare in NMS, and a box `(1, 4)` that overlaps only the masked ones.

    Groups are moved apart as mmcv's `batched_nms` does; all masked boxes are moved to one place far from the others.
    """
    valid = (scores >= 0)[:, None]
    inside = torch.where(valid, boxes, 0.0)
    step = inside.max() + 1  # (the exporter has no amax over all axes)
    # mmcv moves by the largest coordinate only, so negative ones overlap the group before, unless it runs NMS group by group
    split = valid.sum() >= chosen.split_from
    step = step - torch.where(split, inside.min(), 0.0)
    if chosen.one_group:
        step = torch.where(split, step, 0.0)
    moved = torch.where(valid, boxes + (groups * step)[:, None], 0.0)
    far = moved.max() + 1
    outside = torch.stack((far, far, 2 * far, 2 * far))[None]
    return torch.where(valid, moved, outside), outside


def _nms(boxes: Tensor, outside: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Indices of the boxes that remain, best first, without masked ones.

    The box `outside` has a score above all others, so it comes first and suppresses the masked boxes in the first step.
    """
    boxes, scores = torch.cat((outside, boxes)), torch.cat((scores.new_full((1,), 2.0), scores))
    return nms(boxes, scores, iou)[1:] - 1

"""mmcv's `nms`, `softnms` and `nms_match` on torchvision and plain torch.

Shapes: boxes (N, 4) as x1 y1 x2 y2, scores (N,), dets (N, 5) = boxes and scores. `offset` is 0 or 1: a box is x2 - x1 +
offset wide. Not guaranteed: with offset=1 a pair whose IoU is within rounding of the threshold may be decided otherwise than
by compiled mmcv.
"""

import torch

from mmfreq.compat.mmcv_precision import widen


def _float32(value):
    """The number as compiled mmcv, whose thresholds are C floats, sees it."""
    return torch.tensor(value, dtype=torch.float32).item()


def nms(bboxes, scores, iou_threshold, offset):
    """Indices of the kept boxes, best score first; a box falls if its IoU with a kept one is above the threshold."""
    bboxes, scores = widen(bboxes, scores)
    if offset:  # the box one pixel wider has the same areas and overlaps
        bboxes = bboxes + bboxes.new_tensor([0.0, 0.0, offset, offset])
    return torch.ops.torchvision.nms(bboxes, scores, _float32(iou_threshold))


def _ious(box, boxes, offset):
    """IoU of `box` (4,) with `boxes` (M, 4) -> (M,)."""
    inter = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2]) + offset
    inter = inter.clamp(min=0).prod(dim=1)
    area = (box[2:] - box[:2] + offset).prod()
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(dim=1)
    return inter / (area + areas - inter)


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Soft-NMS on the CPU: writes the boxes with their decayed scores into `dets`, returns their indices, (M,), M <= N.

    `method`: 0 drops overlapping boxes, 1 decays linearly, 2 by a Gaussian of width `sigma`. One Python step for each kept box:
    milliseconds for hundreds of boxes, seconds for tens of thousands. Boxes of equal score may come in another order than from
    compiled mmcv.
    """
    live_boxes, live_scores = widen(boxes, scores)
    inds = torch.arange(len(boxes))
    kept = []
    while len(inds):
        best = int(live_scores.argmax())
        box = live_boxes[best]
        dets[len(kept)] = torch.cat([box, live_scores[best : best + 1]])
        kept.append(int(inds[best]))
        rest = torch.arange(len(inds)) != best
        live_boxes, live_scores, inds = live_boxes[rest], live_scores[rest], inds[rest]
        iou = _ious(box, live_boxes, offset)
        if method == 2:
            live_scores = live_scores * torch.exp(-(iou * iou) / sigma)
        else:
            decayed = live_scores * (1 - iou) if method == 1 else torch.zeros_like(live_scores)
            live_scores = torch.where(iou >= _float32(iou_threshold), decayed, live_scores)
        stay = live_scores >= _float32(min_score)
        live_boxes, live_scores, inds = live_boxes[stay], live_scores[stay], inds[stay]
    return torch.tensor(kept, dtype=torch.long)


def nms_match(dets, iou_threshold):
    """Groups of indices, best box first: each kept box with the boxes that it suppressed (IoU at or above the threshold)."""
    (dets,) = widen(dets)
    order = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(order):
        best, rest = order[0], order[1:]
        falls = _ious(dets[best, :4], dets[rest, :4], 0) >= _float32(iou_threshold)
        groups.append([int(best), *rest[falls].tolist()])
        order = rest[~falls]
    return groups

"""NMS, soft-NMS and NMS groups through `mmcv.ops` against loops over pairs of boxes."""

import math

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, nms, nms_match, soft_nms


def boxes_and_scores(n=150, seed=0):
    """Random boxes on a small canvas, so that many overlap; distinct scores."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 40
    return torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=generator) * 25], 1), torch.randperm(
        n, generator=generator
    ).float().add(1) / n


def iou(a, b, offset):
    """IoU of two boxes of Python floats."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(x2 - x1 + offset) * (y2 - y1 + offset) for x1, y1, x2, y2 in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_nms(boxes, scores, threshold, offset):
    boxes, scores, kept = boxes.tolist(), scores.tolist(), []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.3, 0.5, 0.7])
def test_nms_equals_the_slow_loop(threshold, offset):
    boxes, scores = boxes_and_scores()
    dets, kept = nms(boxes, scores, threshold, offset=offset)
    expected = slow_nms(boxes, scores, threshold, offset)
    assert kept.tolist() == expected and 1 < len(expected) < len(boxes)
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[expected])


def test_offset_counts_the_last_pixel():
    boxes = torch.tensor([[0.0, 0, 9, 9], [5.0, 0, 14, 9]])  # IoU 36/126 = 0.286 as lengths, 50/150 = 0.333 as pixels
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.3, offset=0)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.3, offset=1)[1].tolist() == [0]


def test_threshold_is_a_float32_as_in_the_compiled_op():
    boxes = torch.tensor([[0.0, 0, 10, 1], [0.0, 0, 6, 1]])  # IoU 6/10, in float32 a little above 0.6
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1].tolist() == [0, 1]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_nms_accepts_every_float_type(dtype):
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 7], [20, 20, 28, 28]], dtype=dtype)
    dets, kept = nms(boxes, torch.tensor([0.5, 0.75, 0.25], dtype=dtype), 0.5)
    assert kept.tolist() == [1, 2] and dets.dtype == dtype


def test_nms_accepts_empty_input_and_arrays():
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].shape == (0,)
    boxes, scores = boxes_and_scores(20)
    _, kept = nms(boxes.numpy(), scores.numpy(), 0.5)
    assert isinstance(kept, np.ndarray) and kept.tolist() == slow_nms(boxes, scores, 0.5, 0)


def test_batched_nms_is_nms_within_each_class():
    boxes, scores = boxes_and_scores()
    classes = torch.arange(len(boxes)) % 3
    dets, kept = batched_nms(boxes, scores, classes, {'type': 'nms', 'iou_threshold': 0.4})
    expected = []
    for label in range(3):
        members = torch.where(classes == label)[0]
        expected += members[slow_nms(boxes[members], scores[members], 0.4, 0)].tolist()
    assert kept.tolist() == sorted(expected, key=lambda i: -scores[i])
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


def slow_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    boxes, live, out = boxes.tolist(), dict(enumerate(scores.tolist())), []
    while live:
        best = max(live, key=live.get)
        out.append((best, live.pop(best)))
        for i in list(live):
            overlap = iou(boxes[best], boxes[i], offset)
            if method == 'gaussian':
                live[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                live[i] *= 1 - overlap if method == 'linear' else 0
            if live[i] < min_score:
                del live[i]
    return out


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_equals_the_slow_loop(method, offset):
    boxes, scores = boxes_and_scores()
    dets, kept = soft_nms(boxes, scores, 0.3, sigma=0.5, min_score=0.05, method=method, offset=offset)
    expected = slow_soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    assert kept.tolist() == [i for i, _ in expected] and 1 < len(expected) < len(boxes)
    assert torch.equal(dets[:, :4], boxes[kept])
    torch.testing.assert_close(dets[:, 4], torch.tensor([score for _, score in expected]), rtol=1e-5, atol=1e-6)


def test_soft_nms_accepts_empty_input():
    dets, kept = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5) and kept.shape == (0,)


def test_nms_match_groups_every_box_once_under_the_box_that_suppressed_it():
    boxes, scores = boxes_and_scores()
    groups = [group.tolist() for group in nms_match(torch.cat([boxes, scores[:, None]], 1), 0.3)]
    assert sorted(i for group in groups for i in group) == list(range(len(boxes)))
    assert [group[0] for group in groups] == slow_nms(boxes, scores, 0.3, 0)
    for group in groups:
        assert group == sorted(group, key=lambda i: -scores[i])
        assert all(iou(boxes[group[0]].tolist(), boxes[i].tolist(), 0) >= 0.3 for i in group[1:])
    assert max(map(len, groups)) > 1

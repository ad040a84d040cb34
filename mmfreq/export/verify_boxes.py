"""Compares the boxes of an exported detector in onnxruntime with those of mmdetection's `predict`, one to one."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmfreq.export.onnx_file import require
from mmfreq.export.verify import TOLERANCES, Difference

NEAR = 2e-2  # boxes of the same label may be a pair if their corners differ by at most this fraction of the image, their scores by this
EQUAL_SCORES = {'fp32': 1e-5, 'fp16': 5e-3}  # their order, and with it the choice of NMS, may differ between runtimes
UNPAIRED = {'fp32': 0.0, 'fp16': 0.1}  # fraction of boxes; float16 changes more than the order of equal scores


class Boxes(NamedTuple):
    """Boxes `(N, 4)`, scores `(N,)`, labels `(N,)` and, with a mask head, probabilities `(N, h, w)` of one image."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None


@torch.no_grad()
def verify_boxes(path: str | Path, graph: nn.Module, inputs: Mapping[str, Tensor], precision: str = 'fp32') -> list[Difference]:
    """Compare a file in onnxruntime on the CPU with mmdetection's `predict`, for whole images and for images with padding.

    Args:
        graph: the exported detector, with a method `predict(images, image_size)`.
        inputs: images `(1, C, H, W)` by name.
        precision: of the file; determines the tolerances.

    Returns:
        For each input the differences of 'boxes', relative to the larger side of the image, of 'scores', and the fraction of
        'unpaired' boxes: those without a counterpart, except for the choice between boxes of equal scores. With a mask head also of
        the probabilities in 'masks'.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    session = require('onnxruntime').InferenceSession(str(path), providers=['CPUExecutionProvider'])
    differences = []
    for name, images in inputs.items():
        height, width = images.shape[2:]
        for size in ((height, width), (height * 3 // 4, width - width // 8)):
            expected = Boxes(*(values.numpy() for values in graph.predict(images, size)))
            actual = found(session, images.numpy(), size)
            title = f'{name}, {size[0]}x{size[1]} of {height}x{width}, {len(expected.scores)} boxes'
            differences += compare(title, actual, expected, max(height, width), precision)
    return differences


def found(session, images: np.ndarray, size: tuple[int, int]) -> Boxes:
    """The valid boxes that a file finds; `size` is the image's (H, W) without padding."""
    values = session.run(None, {'images': images, 'image_size': np.array(size)})
    named = dict(zip((output.name for output in session.get_outputs()), values, strict=True))
    return Boxes(**{name: named[name][: named['count']] for name in Boxes._fields if name in named})


def compare(name: str, actual: Boxes, expected: Boxes, side: int, precision: str = 'fp32') -> list[Difference]:
    """The differences of `verify_boxes` for one input; `side` is the larger side of the image."""
    first, second = paired(actual, expected, side)
    boxes = np.abs(actual.boxes[first] - expected.boxes[second]).ravel() / side
    scores = np.abs(actual.scores[first] - expected.scores[second])
    rest, wanted = np.delete(actual.scores, first), np.delete(expected.scores, second)
    equal = np.abs(rest[:, None] - wanted[None]) <= EQUAL_SCORES[precision]
    left = int((~equal.any(1)).sum() + (~equal.any(0)).sum())
    fraction = left / max(len(actual.scores) + len(expected.scores), 1)
    tolerance = TOLERANCES[precision]
    differences = [
        Difference(name, 'boxes', float(boxes.max(initial=0)), float(boxes.mean()) if boxes.size else 0.0, tolerance),
        Difference(name, 'scores', float(scores.max(initial=0)), float(scores.mean()) if scores.size else 0.0, tolerance),
        Difference(name, 'unpaired', fraction, fraction, UNPAIRED[precision]),
    ]
    if actual.masks is None or expected.masks is None:
        return differences
    masks = np.abs(actual.masks[first] - expected.masks[second]) if first else np.zeros(1)
    return [*differences, Difference(name, 'masks', float(masks.max()), float(masks.mean()), tolerance)]


def paired(actual: Boxes, expected: Boxes, side: int) -> tuple[list[int], list[int]]:
    """Indices of the pairs: for each expected box, best first, the nearest actual box with its label that has no counterpart yet."""
    first: list[int] = []
    second: list[int] = []
    free = np.ones(len(actual.scores), bool)
    for index, (box, score, label) in enumerate(zip(*expected[:3], strict=True)):
        distance = np.maximum(np.abs(actual.boxes - box).max(1) / side, np.abs(actual.scores - score))
        distance = np.where(free & (actual.labels == label), distance, np.inf)
        if len(distance) and distance.min() <= NEAR:
            first.append(int(distance.argmin()))
            second.append(index)
            free[first[-1]] = False
    return first, second

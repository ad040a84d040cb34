"""Compares the boxes of an exported detector in onnxruntime with those of mmdetection's `predict`, one to one."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmfreq.export.onnx_file import require
from mmfreq.export.verify import TOLERANCES, Difference

NEAR = 2e-2  # a pair has corners that differ by at most this fraction of the image, scores that differ by at most this
EQUAL_SCORES = {'fp32': 1e-5, 'fp16': 5e-3}  # runtimes may sort such scores differently
UNPAIRED = {'fp32': 0.0, 'fp16': 0.1}  # fraction of boxes


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
        graph: the exported detector; its method `predict(images, image_size)` returns boxes, scores and labels of mmdetection.
        inputs: images `(1, C, H, W)` by name.
        precision: of the file; determines the tolerances.

    Returns:
        For each input the differences of 'boxes', relative to the larger side of the image, of 'scores', and the fraction of
        'unpaired' boxes: those without a counterpart, except where equal scores explain it (see `explained`). With a mask head also
        of the probabilities in 'masks'.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    session = require('onnxruntime').InferenceSession(str(path), providers=['CPUExecutionProvider'])
    max_boxes = next(output.shape[0] for output in session.get_outputs() if output.name == 'boxes')
    differences = []
    for name, images in inputs.items():
        height, width = images.shape[2:]
        image = name.removesuffix(f', {height}x{width}')
        for size in ((height, width), (height * 3 // 4, width - width // 8)):
            expected = Boxes(*(values.numpy() for values in graph.predict(images, size)))
            actual = found(session, images.numpy(), size)
            title = f'{image}, {size[0]}x{size[1]} of {height}x{width}, {len(expected.scores)} boxes'
            differences += compare(title, actual, expected, max(height, width), max_boxes, precision)
    return differences


def found(session, images: np.ndarray, size: tuple[int, int]) -> Boxes:
    """The valid boxes that a file finds; `size` is the image's (H, W) without padding."""
    values = session.run(None, {'images': images, 'image_size': np.array(size)})
    named = dict(zip((output.name for output in session.get_outputs()), values, strict=True))
    return Boxes(**{name: named[name][: named['count']] for name in Boxes._fields if name in named})


def compare(name: str, actual: Boxes, expected: Boxes, side: int, max_boxes: int, precision: str = 'fp32') -> list[Difference]:
    """The differences of `verify_boxes` for one input; `side` is the larger side of the image."""
    pairs = paired(actual, expected, side)
    boxes = np.abs(actual.boxes[pairs[0]] - expected.boxes[pairs[1]]).ravel() / side
    scores = np.abs(actual.scores[pairs[0]] - expected.scores[pairs[1]])
    unpaired = [np.setdiff1d(np.arange(len(rows.scores)), used) for rows, used in zip((actual, expected), pairs, strict=True)]
    left = sum(len(rows) for rows in unpaired) - explained(actual, expected, unpaired, max_boxes, EQUAL_SCORES[precision])
    fraction = left / max(len(actual.scores) + len(expected.scores), 1)
    largest = [float(values.max(initial=0)) for values in (boxes, scores)]
    means = [float(values.mean()) if values.size else 0.0 for values in (boxes, scores)]
    tolerance = TOLERANCES[precision]
    differences = [
        Difference(name, 'boxes', largest[0], means[0], tolerance),
        Difference(name, 'scores', largest[1], means[1], tolerance),
        Difference(name, 'unpaired', fraction, fraction, UNPAIRED[precision]),
    ]
    if actual.masks is None or expected.masks is None:
        return differences
    masks = np.abs(actual.masks[pairs[0]] - expected.masks[pairs[1]]) if pairs[0] else np.zeros(1)
    return [*differences, Difference(name, 'masks', float(masks.max()), float(masks.mean()), tolerance)]


def explained(actual: Boxes, expected: Boxes, unpaired: list[np.ndarray], max_boxes: int, tolerance: float) -> int:
    """How many of the unpaired boxes are due to the order of equal scores.

    The score of such a box equals that of another box; or it is below the last score of the other result, which is full; or it
    overlaps an unpaired box of its label in the other result that is itself explained, and NMS chose that one.

    Args:
        unpaired: indices in `actual` and in `expected`.
    """
    every = np.concatenate((actual.scores, expected.scores))
    known: list[list[int]] = [[], []]
    for i, (rows, other) in enumerate(((actual, expected), (expected, actual))):
        for index in unpaired[i]:
            score = rows.scores[index]
            tied = (np.abs(every - score) <= tolerance).sum() > 1
            if tied or (len(other.scores) == max_boxes and score <= other.scores.min() + tolerance):
                known[i].append(index)
    grows = True
    while grows:
        grows = False
        for i, (rows, other) in enumerate(((actual, expected), (expected, actual))):
            for index in np.setdiff1d(unpaired[i], known[i]):
                if any(_overlap(rows, index, other, chosen) for chosen in known[1 - i]):
                    known[i].append(index)
                    grows = True
    return len(known[0]) + len(known[1])


def _overlap(first: Boxes, i: int, second: Boxes, j: int) -> bool:
    """Whether two boxes have the same label and overlap."""
    a, b = first.boxes[i], second.boxes[j]
    return bool(first.labels[i] == second.labels[j] and (np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all())


def paired(actual: Boxes, expected: Boxes, side: int) -> tuple[list[int], list[int]]:
    """Indices of the pairs: for each expected box, best first, the nearest actual box of its label that is not in a pair yet."""
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

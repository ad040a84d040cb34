"""Predictions as plain data for JSON. Colours are [r, g, b], sizes [width, height] in pixels, planes of bytes base64 of zlib.

Legend: H W picture, M detections, K classes.
"""

import base64
import zlib

import numpy as np

from mmfreq.engine.errors import UserError
from mmfreq.engine.inference import Predictor

MAX_CLASSES = 256  # ids are bytes
MAX_DETECTIONS = 100  # that a page can show and a person can read


def answer(predictor: Predictor, image: np.ndarray) -> dict:
    """What `predictor` says of `image` (H, W, 3) uint8 BGR: the fields `task`, `size` and `legend`, and

    - segmentation: `labels`, H * W ids row by row; the legend has `share` of the area, largest first, and only what occurs;
    - detection: `detections`, the best first, each with `label`, `score`, `box` [x1, y1, x2, y2] and `mask`: null, or
      `rectangle`, the smallest [x, y, width, height] around it, and in that `plane`, bytes 0 and 1. The legend has what was found.

    Raises:
        UserError: more than 256 classes.
    """
    if len(predictor.classes) > MAX_CLASSES:
        raise UserError(f'the model has {len(predictor.classes)} classes; the page shows at most {MAX_CLASSES}')
    prediction = predictor(image)
    told = {'task': predictor.task, 'size': [image.shape[1], image.shape[0]]}
    if predictor.task == 'segmentation':
        return told | _segmentation(predictor, prediction)
    return told | _detection(predictor, prediction)


def plane(values: np.ndarray) -> str:
    """(H, W) of bytes, row by row."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values, np.uint8).tobytes())).decode('ascii')


def _segmentation(predictor: Predictor, ids: np.ndarray) -> dict:
    counts = np.bincount(ids.ravel())
    found = sorted(np.flatnonzero(counts).tolist(), key=lambda label: -counts[label])
    legend = [_entry(predictor, label) | {'share': round(counts[label] / ids.size, 5)} for label in found]
    return {'labels': plane(ids), 'legend': legend}


def _detection(predictor: Predictor, found: dict) -> dict:
    usable = np.isfinite(found['boxes']).all(axis=1) & np.isfinite(found['scores'])  # JSON has no other numbers
    detections = []
    for index in np.flatnonzero(usable)[:MAX_DETECTIONS].tolist():
        one = {'label': int(found['labels'][index]), 'score': round(float(found['scores'][index]), 4)}
        one['box'] = found['boxes'][index].astype(float).round(2).tolist()
        one['mask'] = None if found['masks'] is None else _cropped(found['masks'][index])
        detections.append(one)
    labels = sorted({one['label'] for one in detections})
    return {'detections': detections, 'legend': [_entry(predictor, label) for label in labels]}


def _entry(predictor: Predictor, label: int) -> dict:
    return {'id': label, 'name': predictor.classes[label], 'colour': list(predictor.palette[label])}


def _cropped(mask: np.ndarray) -> dict | None:
    """None for an empty mask."""
    if not mask.any():
        return None
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
    inside = mask[top : bottom + 1, left : right + 1]
    return {'rectangle': [left, top, inside.shape[1], inside.shape[0]], 'plane': plane(inside)}

"""Predictions, learned filters and sample scenes as plain data for JSON.

Colors are [r, g, b], sizes [width, height] in pixels. Planes of bytes are base64 of zlib, row by row; images are PNG files.
Legend: H W image, M detections, K classes, h w stored grid of a filter.
"""

import base64
import zlib
from dataclasses import dataclass, field

import cv2
import numpy as np
from torch import nn

from mmfreq.analysis.learned_filters import LearnedFilters, choose_layers, learned_filters
from mmfreq.apis.inference import Predictor
from mmfreq.datasets.toy import draw_scene
from mmfreq.errors import UserError
from mmfreq.layers import AdaptiveFrequencyFilter, StoredFilter

MAX_CLASSES = 256  # class ids are bytes
MAX_DETECTIONS = 100
MAX_LAYERS = 6
MAX_FILTERS = 8  # per layer
SCENE_SIZE = (160, 240)  # (H, W); shapes have about the size in pixels that they have in the toy data
SCENE_SEEDS = (5, 13, 8, 3)


def encode_prediction(predictor: Predictor, image: np.ndarray) -> dict:
    """The prediction for `image` (H, W, 3) uint8 BGR: the fields `task`, `size` and `legend`, and

    - segmentation: `labels`, a plane of H * W ids; the legend lists the predicted classes with their `share` of the area, largest
      first;
    - detection: `detections`, best first, each with `label`, `score`, `box` [x1, y1, x2, y2] and `mask`: null, or `rectangle`, the
      smallest [x, y, width, height] around it, and its `plane` of bytes 0 and 1. The legend lists the detected classes.

    Raises:
        UserError: the model has more than 256 classes.
    """
    if len(predictor.classes) > MAX_CLASSES:
        raise UserError(f'The page shows at most {MAX_CLASSES} classes; the model has {len(predictor.classes)} classes.')
    prediction = predictor(image)
    encode = _segmentation if predictor.task == 'segmentation' else _detection
    return {'task': predictor.task, 'size': [image.shape[1], image.shape[0]], **encode(predictor, prediction)}


def encode_plane(values: np.ndarray) -> str:
    """(H, W) of bytes as base64 of zlib, row by row."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values, np.uint8).tobytes())).decode('ascii')


def _segmentation(predictor: Predictor, ids: np.ndarray) -> dict:
    counts = np.bincount(ids.ravel())
    labels = sorted(np.flatnonzero(counts).tolist(), key=lambda label: -counts[label])
    legend = [_legend_entry(predictor, label) | {'share': round(counts[label] / ids.size, 5)} for label in labels]
    return {'labels': encode_plane(ids), 'legend': legend}


def _detection(predictor: Predictor, found: dict) -> dict:
    finite = np.isfinite(found['boxes']).all(axis=1) & np.isfinite(found['scores'])  # JSON has no other numbers
    detections = []
    for index in np.flatnonzero(finite)[:MAX_DETECTIONS].tolist():
        detection = {'label': int(found['labels'][index]), 'score': round(float(found['scores'][index]), 4)}
        detection['box'] = found['boxes'][index].astype(float).round(2).tolist()
        detection['mask'] = None if found['masks'] is None else _cropped(found['masks'][index])
        detections.append(detection)
    labels = sorted({detection['label'] for detection in detections})
    return {'detections': detections, 'legend': [_legend_entry(predictor, label) for label in labels]}


def _legend_entry(predictor: Predictor, label: int) -> dict:
    return {'id': label, 'name': predictor.classes[label], 'color': list(predictor.palette[label])}


def _cropped(mask: np.ndarray) -> dict | None:
    """The mask within its bounding rectangle; None for an empty mask."""
    if not mask.any():
        return None
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
    inside = mask[top : bottom + 1, left : right + 1]
    return {'rectangle': [left, top, inside.shape[1], inside.shape[0]], 'plane': encode_plane(inside)}


@dataclass(frozen=True)
class FilterImages:
    """Learned filters of a few layers, the strongest of each, in frequency and in space.

    Attributes:
        note: why there are no filters; empty if there are.
        count: number of layers with filters in the model.
        layers: the shown layers, each with `name`, `grid` [h, w], `count` of its filters and `filters`, each with `index`, `gain`
            over the frequencies and `kernel` in space, both PNG in data URLs.
    """

    note: str = ''
    count: int = 0
    layers: list[dict] = field(default_factory=list)


def draw_filters(model: nn.Module) -> FilterImages:
    """The filters of a few layers, spread over the stages of `model`."""
    if not any(isinstance(module, StoredFilter) for module in model.modules()):
        if any(isinstance(module, AdaptiveFrequencyFilter) for module in model.modules()):
            return FilterImages('AFFNet stores no filters: it computes them from the spectrum of each image.')
        return FilterImages(f'{type(model).__name__} has no layer with a filter that is stored in the frequency domain.')
    choice = choose_layers(model, ['filters'], most=MAX_LAYERS)['filters']
    layers = [_layer(learned_filters(layer, name)) for name, layer in choice.layers.items()]
    return FilterImages(count=choice.available, layers=layers)


def colored(values: np.ndarray, low: float, high: float) -> str:
    """(h, w) real as a PNG in viridis, dark at `low`, bright at `high`; NaN is dark."""
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(high - low, np.finfo(np.float32).tiny)
    image = cv2.applyColorMap((scaled.clip(0, 1) * 255).round().astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return 'data:image/png;base64,' + base64.b64encode(cv2.imencode('.png', image)[1].tobytes()).decode('ascii')


def _layer(layer: LearnedFilters) -> dict:
    filters = []
    for index in layer.strongest(MAX_FILTERS):
        gain, kernel = layer.gain[index], layer.kernel[index]
        bound = _largest(kernel)
        filters.append({'index': index, 'gain': colored(gain, 0, _largest(gain)), 'kernel': colored(kernel, -bound, bound)})
    return {'name': layer.name, 'grid': list(layer.kernel.shape[1:]), 'count': len(layer.kernel), 'filters': filters}


def _largest(values: np.ndarray) -> float:
    finite = abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 1.0


def sample_scenes() -> list[bytes]:
    """Drawn scenes in the style of the toy data, as PNG files; the same at every call."""
    scenes = (draw_scene(np.random.default_rng([seed, 4]), SCENE_SIZE).image for seed in SCENE_SEEDS)
    return [cv2.imencode('.png', np.ascontiguousarray(scene[..., ::-1]))[1].tobytes() for scene in scenes]

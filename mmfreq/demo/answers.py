"""Scenes to try without a picture of one's own, in the style of the toy data that the quickstart trains on."""

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

SIZE = (160, 240)  # (H, W); shapes about as large as those of the toy sets, in pixels
SEEDS = (5, 13, 8, 3)


def sample_scenes() -> list[bytes]:
    """PNG files, the same at every call."""
    scenes = (draw_scene(np.random.default_rng([seed, 4]), SIZE).image for seed in SEEDS)
    return [cv2.imencode('.png', np.ascontiguousarray(scene[..., ::-1]))[1].tobytes() for scene in scenes]


# The learned filters of a model as small pictures: a few layers, the strongest filters of each, in frequency and in space.
#
# Legend: C filters of a layer, h w stored grid.


MAX_LAYERS = 6
MAX_FILTERS = 8


@dataclass(frozen=True)
class FilterPictures:
    """What the page shows, as plain data.

    Attributes:
        note: why there are none; empty if there are.
        count: layers with filters in the model.
        layers: of the layers shown `name`, `grid` [h, w], `count` of its filters and `filters`, of which each has `index`, and
            `gain` over the frequencies and `kernel` in space as PNG in data addresses.
    """

    note: str = ''
    count: int = 0
    layers: list[dict] = field(default_factory=list)


def draw_filters(model: nn.Module) -> FilterPictures:
    """Of a few layers, spread over the stages of `model`."""
    if not any(isinstance(module, StoredFilter) for module in model.modules()):
        return FilterPictures(_why_none(model))
    choice = choose_layers(model, ['filters'], most=MAX_LAYERS)['filters']
    drawn = [_drawn(learned_filters(layer, name)) for name, layer in choice.layers.items()]
    return FilterPictures(count=choice.of, layers=drawn)


def coloured(values: np.ndarray, low: float, high: float) -> str:
    """(h, w) real as a PNG in viridis, dark at `low`, bright at `high`; what is no number is dark."""
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(high - low, np.finfo(np.float32).tiny)
    picture = cv2.applyColorMap((scaled.clip(0, 1) * 255).round().astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    _, encoded = cv2.imencode('.png', picture)
    return 'data:image/png;base64,' + base64.b64encode(encoded.tobytes()).decode('ascii')


def _drawn(layer: LearnedFilters) -> dict:
    shown = [{'index': index, **_pictures(layer.gain[index], layer.kernel[index])} for index in layer.strongest(MAX_FILTERS)]
    return {'name': layer.name, 'grid': list(layer.kernel.shape[1:]), 'count': len(layer.kernel), 'filters': shown}


def _pictures(gain: np.ndarray, kernel: np.ndarray) -> dict:
    bound = _largest(kernel)
    return {'gain': coloured(gain, 0, _largest(gain)), 'kernel': coloured(kernel, -bound, bound)}


def _largest(values: np.ndarray) -> float:
    finite = abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 1.0


def _why_none(model: nn.Module) -> str:
    if any(isinstance(module, AdaptiveFrequencyFilter) for module in model.modules()):
        return 'AFFNet stores no filters: it computes them anew from the spectrum of each picture, so there are none to show.'
    return f'{type(model).__name__} has no layer with a filter stored in the frequency domain, so there are none to show.'


# Predictions as plain data for JSON. Colours are [r, g, b], sizes [width, height] in pixels, planes of bytes base64 of zlib.
#
# Legend: H W picture, M detections, K classes.


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

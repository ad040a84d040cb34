"""The learned filters of a model as small pictures: a few layers, the strongest filters of each, in frequency and in space.

Legend: C filters of a layer, h w stored grid.
"""

import base64
from dataclasses import dataclass, field

import cv2
import numpy as np
from torch import nn

from mmfreq.analysis.drawable_layers import choose_layers
from mmfreq.analysis.filters import LearnedFilters, learned_filters
from mmfreq.layers import AdaptiveFrequencyFilter, StoredFilter

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

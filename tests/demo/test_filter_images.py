"""Images of learned filters: colors correspond to values, and models without filters get a note."""

import base64

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import mmfreq
from mmfreq.demo.responses import MAX_FILTERS, MAX_LAYERS, colored, draw_filters


def decode(address):
    header, _, data = address.partition(',')
    assert header == 'data:image/png;base64'
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_colors_run_from_dark_to_bright_and_are_clipped():
    image = decode(colored(np.array([[-1.0, 0.0, 1.0], [-9.0, np.nan, np.inf]]), -1, 1))
    dark, middle, bright = image[0].tolist()
    assert dark == [68, 1, 84] and abs(np.subtract(bright, [253, 231, 37])).max() <= 1  # the ends of viridis
    assert sum(dark) < sum(middle) < sum(bright)
    assert image[1].tolist() == [dark, dark, bright]


def test_identity_filter_is_flat_in_frequency_and_a_point_in_space():
    model = mmfreq.build_backbone('gfnet-h-micro')
    layer = next(module for module in model.modules() if hasattr(module, 'stored'))
    with torch.no_grad():
        layer.stored.zero_()
        layer.stored[..., 0, 0] = 1  # the identity, in the first channel only
    layer = draw_filters(model).layers[0]
    first = next(one for one in layer['filters'] if one['index'] == 0)
    height, width = layer['grid']
    gain, kernel = decode(first['gain']), decode(first['kernel'])
    assert gain.shape == (height, width, 3) and len(np.unique(gain.reshape(-1, 3), axis=0)) == 1
    others = np.delete(kernel.reshape(-1, 3), height // 2 * width + width // 2, axis=0)
    assert len(np.unique(others, axis=0)) == 1
    assert kernel[height // 2, width // 2].sum() > others[0].sum()


def test_numbers_of_layers_and_filters_are_bounded():
    drawn = draw_filters(mmfreq.build_backbone('dfformer-micro'))
    assert 1 <= len(drawn.layers) <= min(MAX_LAYERS, drawn.count)
    assert all(1 <= len(layer['filters']) <= min(MAX_FILTERS, layer['count']) for layer in drawn.layers)


@pytest.mark.parametrize(('model', 'note'), [('affnet-micro', 'AFFNet stores no filters'), (None, 'Sequential has no layer')])
def test_note_for_models_without_stored_filters(model, note):
    drawn = draw_filters(mmfreq.build_backbone(model) if model else nn.Sequential(nn.Conv2d(3, 3, 7)))
    assert drawn.note.startswith(note) and drawn.layers == [] and drawn.count == 0


def test_nan_filters_are_drawn():
    model = mmfreq.build_backbone('hornet-micro')
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float('nan'))
    assert draw_filters(model).layers

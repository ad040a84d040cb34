"""Predictions as JSON: what the page unpacks equals the prediction of the model."""

import base64
import json
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from mmfreq.demo.responses import MAX_DETECTIONS, encode_prediction
from mmfreq.errors import UserError

IMAGE = np.zeros((4, 6, 3), np.uint8)


def predictor(task, prediction, classes=3):
    """A predictor with a fixed prediction; classes are 'a', 'b', ... with colors (0, 0, 0), (1, 1, 1), ..."""

    class Fixed(SimpleNamespace):
        def __call__(self, image):
            return prediction

    names = [chr(ord('a') + number) for number in range(classes)]
    return Fixed(task=task, classes=names, palette=[(number,) * 3 for number in range(classes)])


def unpack(text, shape):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(shape)


def detections(count, masks=True):
    scores = np.linspace(1, 0.5, count).astype(np.float32)
    boxes = np.tile(np.float32([1, 0, 4, 3]), (count, 1))
    filled = np.zeros((count, 4, 6), bool)
    filled[:, 1:3, 2:5] = True
    return {'boxes': boxes, 'labels': np.arange(count) % 3, 'scores': scores, 'masks': filled if masks else None}


def test_labels_and_shares_of_the_area():
    ids = np.uint8([[2, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2], [0, 0, 0, 2, 2, 2], [0, 0, 0, 2, 2, 2]])
    response = json.loads(json.dumps(encode_prediction(predictor('segmentation', ids), IMAGE)))
    np.testing.assert_array_equal(unpack(response['labels'], (4, 6)), ids)
    assert response['size'] == [6, 4] and response['task'] == 'segmentation'
    assert response['legend'] == [
        {'id': 2, 'name': 'c', 'color': [2, 2, 2], 'share': 0.75},
        {'id': 0, 'name': 'a', 'color': [0, 0, 0], 'share': 0.25},
    ]


def test_detections_with_their_masks_cropped():
    response = json.loads(json.dumps(encode_prediction(predictor('detection', detections(2)), IMAGE)))
    assert [entry['name'] for entry in response['legend']] == ['a', 'b']
    first = response['detections'][0]
    assert (first['label'], first['score'], first['box']) == (0, 1.0, [1, 0, 4, 3])
    assert first['mask']['rectangle'] == [2, 1, 3, 2]
    assert unpack(first['mask']['plane'], (2, 3)).all()


def test_detections_without_masks_with_empty_masks_and_no_detections():
    assert encode_prediction(predictor('detection', detections(1, masks=False)), IMAGE)['detections'][0]['mask'] is None
    prediction = detections(1)
    prediction['masks'][:] = False
    assert encode_prediction(predictor('detection', prediction), IMAGE)['detections'][0]['mask'] is None
    response = encode_prediction(predictor('detection', detections(0)), IMAGE)
    assert response['detections'] == [] and response['legend'] == []


def test_detections_that_are_not_finite_or_beyond_the_maximum_are_dropped():
    prediction = detections(MAX_DETECTIONS + 7)
    prediction['scores'][0], prediction['boxes'][1, 2] = np.nan, np.inf
    response = encode_prediction(predictor('detection', prediction), IMAGE)
    json.dumps(response, allow_nan=False)
    assert len(response['detections']) == MAX_DETECTIONS
    assert response['detections'][0]['label'] == 2


def test_more_classes_than_a_byte_are_refused():
    with pytest.raises(UserError, match='300 classes'):
        encode_prediction(predictor('segmentation', None, classes=300), IMAGE)

"""Predictions as JSON: what the page unpacks is what the model said."""

import base64
import json
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from mmfreq.demo.answers import MAX_DETECTIONS, answer
from mmfreq.errors import UserError

IMAGE = np.zeros((4, 6, 3), np.uint8)


def predictor(task, prediction, classes=3):
    """A predictor in words: classes are 'a', 'b', ... with colours (0, 0, 0), (1, 1, 1), ..."""

    class Fixed(SimpleNamespace):
        def __call__(self, image):
            return prediction

    names = [chr(ord('a') + number) for number in range(classes)]
    return Fixed(task=task, classes=names, palette=[(number,) * 3 for number in range(classes)])


def unpack(text, shape):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(shape)


def found(count, masks=True):
    scores = np.linspace(1, 0.5, count).astype(np.float32)
    boxes = np.tile(np.float32([1, 0, 4, 3]), (count, 1))
    held = np.zeros((count, 4, 6), bool)
    held[:, 1:3, 2:5] = True
    return {'boxes': boxes, 'labels': np.arange(count) % 3, 'scores': scores, 'masks': held if masks else None}


def test_labels_and_shares_of_the_area():
    ids = np.uint8([[2, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2], [0, 0, 0, 2, 2, 2], [0, 0, 0, 2, 2, 2]])
    told = json.loads(json.dumps(answer(predictor('segmentation', ids), IMAGE)))
    np.testing.assert_array_equal(unpack(told['labels'], (4, 6)), ids)
    assert told['size'] == [6, 4] and told['task'] == 'segmentation'
    assert told['legend'] == [
        {'id': 2, 'name': 'c', 'colour': [2, 2, 2], 'share': 0.75},
        {'id': 0, 'name': 'a', 'colour': [0, 0, 0], 'share': 0.25},
    ]


def test_detections_with_their_masks_cropped():
    told = json.loads(json.dumps(answer(predictor('detection', found(2)), IMAGE)))
    assert [entry['name'] for entry in told['legend']] == ['a', 'b']
    first = told['detections'][0]
    assert (first['label'], first['score'], first['box']) == (0, 1.0, [1, 0, 4, 3])
    assert first['mask']['rectangle'] == [2, 1, 3, 2]
    assert unpack(first['mask']['plane'], (2, 3)).all()


def test_detections_without_masks_with_empty_ones_and_none_at_all():
    assert answer(predictor('detection', found(1, masks=False)), IMAGE)['detections'][0]['mask'] is None
    prediction = found(1)
    prediction['masks'][:] = False
    assert answer(predictor('detection', prediction), IMAGE)['detections'][0]['mask'] is None
    told = answer(predictor('detection', found(0)), IMAGE)
    assert told['detections'] == [] and told['legend'] == []


def test_what_json_cannot_hold_and_what_nobody_could_read_is_left_out():
    prediction = found(MAX_DETECTIONS + 7)
    prediction['scores'][0], prediction['boxes'][1, 2] = np.nan, np.inf
    told = answer(predictor('detection', prediction), IMAGE)
    json.dumps(told, allow_nan=False)
    assert len(told['detections']) == MAX_DETECTIONS
    assert told['detections'][0]['label'] == 2


def test_ids_are_bytes():
    with pytest.raises(UserError, match='300 classes'):
        answer(predictor('segmentation', None, classes=300), IMAGE)

"""A COCO file corrupted in a random place: it is refused, a warning names it, or it is scored and loaded as before."""

import copy
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mmfreq.errors import UserError
from mmfreq.preflight import Report
from mmfreq.preflight.coco import check_coco
from tests.preflight.conftest import coco_table

pytest.importorskip('mmdet')
from mmdet.datasets import CocoDataset
from mmengine.registry import init_default_scope

from tests.preflight.perfect_scores import perfect_scores

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
LOADERS = ('train_dataloader', 'val_dataloader')
# no value that could be meant: another small number is as good a coordinate as the right one
VALUES = st.sampled_from(
    (None, 'x', '', '0', math.nan, math.inf, -math.inf, -1e6, 1e9, True, [], {}, [None], [[]], [1e9] * 4, {'size': 1})
)


def leaves(value, path=()):
    """The paths of all values in a nested structure, including those of lists and dicts."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from leaves(child, (*path, key))


PATHS = sorted(leaves(coco_table()), key=str)


def changed(path, value=None, delete=False):
    """A valid file with one value replaced or deleted; not a whole annotation, as the rest is valid."""
    assume(not (delete and path[0] == 'annotations' and len(path) == 2))
    table = coco_table()
    at = table
    for key in path[:-1]:
        at = at[key]
    if delete:
        del at[path[-1]]
    else:
        at[path[-1]] = copy.deepcopy(value)
    return table


@pytest.fixture
def outcome(scored, write_coco, tmp_path):
    """A function: the error or the warnings of the checks for the content of one side's file; None if they are silent."""
    cfg = scored()
    cfg.train_dataloader.dataset = write_coco(with_mask=True)
    valid = (tmp_path / 'val.json').read_text()

    def check(text, side):
        for name in ('train', 'val'):
            (tmp_path / f'{name}.json').write_text(text if name == side else valid)
        report = Report()
        try:
            check_coco(cfg, report, LOADERS)
        except UserError as error:
            return str(error)
        return '\n'.join(report.warnings) or None

    return SimpleNamespace(check=check, path=tmp_path, leaf=cfg.train_dataloader.dataset)


def loaded(outcome):
    """Labels, boxes and areas of masks that mmdet loads from the training file."""
    init_default_scope('mmdet')
    leaf = {key: value for key, value in outcome.leaf.items() if key != 'type'}
    samples = list(CocoDataset(**leaf))
    return [
        (sample['gt_bboxes_labels'].tolist(), sample['gt_bboxes'].tensor.tolist(), sample['gt_masks'].masks.sum((1, 2)).tolist())
        for sample in samples
    ]


def names_the_file(text, side):
    return f'{side}.json' in text or '.jpg' in text


@EXAMPLES
@given(path=st.sampled_from(PATHS), value=VALUES, delete=st.booleans())
def test_a_changed_value_in_validation(outcome, path, value, delete):
    assume(value is not True or 'segmentation' not in path)  # as a coordinate it is 1
    table = changed(path, value, delete)
    said = outcome.check(json.dumps(table), 'val')
    if said:
        assert names_the_file(said, 'val') or 'objects in validation' in said, said
    else:
        assert perfect_scores(coco_table(), table, outcome.path / 'scored.json') == (1.0, 1.0)


@EXAMPLES
@given(path=st.sampled_from(PATHS), value=VALUES, delete=st.booleans())
def test_a_changed_value_in_training(outcome, path, value, delete):
    table = changed(path, value, delete)
    said = outcome.check(json.dumps(table), 'train')
    if said:
        assert names_the_file(said, 'train') or 'objects in validation' in said, said
        return
    labels = [0, 1, 0]
    samples = loaded(outcome)  # without an error
    assert [label for sample in samples for label in sample[0]] == labels
    assert all(np.isfinite(np.array(boxes, float)).all() and all(area > 0 for area in areas) for _, boxes, areas in samples)


@EXAMPLES
@given(at=st.floats(0, 1), byte=st.binary(max_size=1), cut=st.booleans())
def test_a_changed_byte(outcome, at, byte, cut):
    text = json.dumps(coco_table()).encode()
    index = int(at * (len(text) - 1))
    damaged = text[:index] + byte + (b'' if cut else text[index + 1 :])
    said = outcome.check(damaged.decode(errors='surrogateescape'), 'val') if damaged.isascii() else 'val.json'
    if said:
        assert names_the_file(said, 'val') or 'objects in validation' in said, said
        return
    table, valid = json.loads(damaged), coco_table()
    meant = [[row.get(field) for field in ('bbox', 'segmentation', 'category_id')] for row in table['annotations']]
    if meant == [[row[field] for field in ('bbox', 'segmentation', 'category_id')] for row in valid['annotations']]:
        assert perfect_scores(valid, table, outcome.path / 'scored.json') == (1.0, 1.0)  # otherwise digits differ: other objects

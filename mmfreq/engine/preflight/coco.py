"""Detection data: the COCO file of each data set, as mmdet's `CocoDataset` reads it.

mmdet 3.3 numbers the classes in the order of the file's categories, not in that of `metainfo`, and leaves out without a word what
has no category, image or extent; so what it leaves out is counted here.
"""

import gc
import json
import logging
import os
from contextlib import contextmanager

from mmengine.registry import DefaultScope

from mmfreq.engine.errors import DataError
from mmfreq.engine.machine import type_name
from mmfreq.engine.notes import say
from mmfreq.engine.paths import absolute, is_remote
from mmfreq.engine.preflight.classes import dataset_classes, dataset_kind
from mmfreq.engine.preflight.coco_boxes import check_annotations
from mmfreq.engine.preflight.coco_images import check_images
from mmfreq.engine.preflight.coco_names import check_categories
from mmfreq.engine.preflight.paths import leaves_of
from mmfreq.engine.preflight.report import Pictures, size_text

LISTS = ('images', 'annotations', 'categories')
LARGE = 50 * 2**20  # bytes, from which on it is said that reading takes a while


def check_coco(cfg, report, loaders):
    """Look through the annotation files of the loaders' COCO data sets, subclasses that read them in their own way excepted.

    Raises:
        DataError: the file, its categories, names of files or annotations are not what mmdet can train with.
    """
    tables, order = {}, {}
    for key, leaf in leaves_of(cfg, loaders):
        kind = dataset_kind(leaf, cfg.default_scope)
        path = os.path.join(leaf.get('data_root') or '', leaf.get('ann_file') or '')
        if not _is_plain_coco(kind) or is_remote(path) or not leaf.get('ann_file'):
            say(f'The annotations of {key} ({leaf.get("type")}) are not looked at.', level=logging.DEBUG)
            continue
        if path not in tables:
            tables[path] = read_coco(path)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            classes = list(dataset_classes(leaf, cfg.default_scope) or ())
        where = f'{key}: {path}'
        category_ids, order[key] = check_categories(where, tables[path]['categories'], classes, report)
        with_masks = any(
            type_name(step.get('type', '')) == 'LoadAnnotations' and step.get('with_mask') for step in leaf.get('pipeline') or ()
        )
        kept = check_annotations(where, tables[path], category_ids, leaf, with_masks, report)
        check_images(where, leaf, tables[path]['images'], kept, report)
        report.data[key] = Pictures(len(tables[path]['images']), len(kept), len(classes))
    _check_orders(order)
    _check_evaluators(cfg, loaders, report)


def read_coco(path):
    """A COCO file as plain data.

    Raises:
        DataError: it is not JSON, or has not the lists of COCO, each of dicts.
    """
    size = os.path.getsize(path)
    if size > LARGE:
        say(f'Reading {path} ({size_text(size)}); this takes {size / 60e6:.0f} s or so.')
    try:
        with open(path, encoding='utf-8') as file, _no_collector():
            table = json.load(file)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError too
        raise DataError(f'{absolute(path)} is no JSON, or only a part of it ({error}); make or copy it again.') from error
    if not isinstance(table, dict):
        raise DataError(
            f'{absolute(path)} is a JSON {type(table).__name__}; expected the dict of a COCO file with {", ".join(LISTS)}.'
        )
    for name in LISTS:
        rows = table.get(name)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            held = 'is missing' if rows is None else f'is a {type(rows).__name__}, or not all in it are dicts'
            raise DataError(
                f'{absolute(path)} is no COCO file of instances: {name!r} {held}; it has {", ".join(table) or "nothing"}. '
                'Expected three lists of dicts: images, annotations, categories.'
            )
    return table


@contextmanager
def _no_collector():
    """Without Python's garbage collector, which looks through millions of new objects again and again: half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _is_plain_coco(kind):
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.api_wrappers import COCO

    if not isinstance(kind, type) or not issubclass(kind, CocoDataset) or kind.COCOAPI is not COCO:
        return False
    return all(getattr(kind, name) is getattr(CocoDataset, name) for name in ('load_data_list', 'parse_data_info', 'filter_data'))


def _check_orders(order):
    """Raise if two data sets number their classes differently: each label would mean another class in the other."""
    for key, names in order.items():
        first, expected = next(iter(order.items()))
        if names != expected and sorted(names) == sorted(expected):
            at = next(index for index, pair in enumerate(zip(expected, names)) if pair[0] != pair[1])
            raise DataError(
                f'the categories of {first} and {key} stand in different orders, and mmdet numbers them as they stand: label '
                f'{at} would '
                f'be {expected[at]!r} in the first and {names[at]!r} in the second. Sort the "categories" of both files alike; '
                'ids may '
                'stay as they are.'
            )


def _check_evaluators(cfg, loaders, report):
    """Raise if an evaluator's annotation file is not there; warn where it is not the data set's."""
    for loader in loaders:
        evaluators = cfg.get(loader.replace('dataloader', 'evaluator')) or []
        for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
            named = evaluator.get('ann_file')
            if not named or is_remote(named) or not cfg.get(loader):
                continue
            key = loader.replace('dataloader', 'evaluator') + '.ann_file'
            if not os.path.isfile(named):
                raise DataError(
                    f'{key}={named!r} is not there: looked at {absolute(named)}. --cfg-options {key}=/path/to/file.json'
                )
            read = [os.path.join(leaf.get('data_root') or '', leaf.get('ann_file') or '') for _, leaf in leaves_of(cfg, (loader,))]
            if read and not any(os.path.exists(path) and os.path.samefile(path, named) for path in read):
                told = f'{key} is {named}, and the data set reads {", ".join(read)}: scores would be of other annotations.'
                report.warnings.append(told)

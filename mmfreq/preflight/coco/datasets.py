"""Detection datasets: the COCO file of each, compared with what mmdet's `CocoDataset` does with it.

mmdet 3.3 numbers the classes in the order of the file's categories, not in that of `metainfo`, and silently skips annotations
without a category, image or extent. The checks count what it skips.
"""

import gc
import json
import logging
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np
from mmengine.registry import DefaultScope

from mmfreq.config.reading import absolute, is_remote, type_name
from mmfreq.errors import DataError
from mmfreq.log import log_once
from mmfreq.preflight.coco.annotations import REASONS, SKIPPED, Annotations, read_annotations
from mmfreq.preflight.coco.categories import check_categories, check_orders, compare_classes
from mmfreq.preflight.coco.evaluator import (
    check_best,
    check_options,
    check_predicted_masks,
    check_scored_images,
    check_scoring,
    coco_metrics,
    compare_files,
    evaluator_file,
    scores_masks,
)
from mmfreq.preflight.coco.geometry import check_geometry
from mmfreq.preflight.coco.images import check_image_sample, check_images
from mmfreq.preflight.coco.masks import BAD_MASK, NO_MASK, read_masks
from mmfreq.preflight.data import dataset_class, dataset_classes, first_names, loader_datasets
from mmfreq.preflight.report import ImageCounts, Report, size_text

LISTS = ('images', 'annotations', 'categories')
MANY_SKIPPED = 0.1  # share of the annotations, from which those that mmdet skips are a warning
LARGE = 50 * 2**20  # bytes; for larger files the log says that reading takes a while


@dataclass
class CheckedDataset:
    """A dataset whose file was checked.

    Attributes:
        path: of its annotation file.
        names: the classes in the order of the labels.
        used: the names of those with an annotation that is used: in training, or for the scores.
    """

    loader: str
    key: str
    leaf: dict
    path: str
    names: list
    used: set


class _Files:
    """The files of a config, each read once."""

    def __init__(self):
        self._files, self._masks = {}, {}

    def read(self, where, path, unlabeled=False):
        """(content of a file, its `Annotations`)."""
        name = os.path.realpath(path)
        if name not in self._files:
            table = read_coco(path, unlabeled)
            self._files[name] = table, read_annotations(where, table)
        table, annotations = self._files[name]
        return table, replace(annotations, where=where)

    def masks(self, path, annotations):
        """The `Masks` of a file that was read."""
        name = os.path.realpath(path)
        if name not in self._masks:
            self._masks[name] = read_masks(annotations)
        return self._masks[name]


def check_coco(cfg, report, loaders):
    """Check the annotation files of the loaders' COCO datasets, except of subclasses that read them in their own way.

    Raises:
        DataError: mmdet cannot train with the file, its categories, file names or annotations, or cannot score it.
        InputError: images that cannot be read, or have another size than the file says.
    """
    with _garbage_collection_off():
        _check_files(cfg, report, loaders)


def _check_files(cfg, report, loaders):
    files, checked = _Files(), []
    for loader in loaders:
        for key, leaf in loader_datasets(cfg, (loader,)):
            path = os.path.join(leaf.get('data_root') or '', leaf.get('ann_file') or '')
            if not _is_plain_coco(dataset_class(leaf, cfg.default_scope)) or is_remote(path) or not leaf.get('ann_file'):
                log_once(f'The annotations of {key} ({leaf.get("type")}) are not checked.', level=logging.DEBUG)
                continue
            checked.append(_check_dataset(cfg, files, loader, key, leaf, path, report))
    check_orders({dataset.key: dataset.names for dataset in checked})
    for loader in loaders:
        _check_metrics(cfg, files, loader, [dataset for dataset in checked if dataset.loader == loader], report)
    compare_classes(checked, report)
    if 'val_dataloader' in loaders and any(coco_metrics(cfg, 'val_dataloader')):
        check_best(cfg)


def check_scored(cfg, report, loaders):
    """The part of `check_coco` that concerns scores, for a test without training; notes are left out."""
    checks = Report()
    check_coco(cfg, checks, [loader for loader in loaders if any(coco_metrics(cfg, loader))])
    report.warnings += checks.warnings


def _check_dataset(cfg, files, loader, key, leaf, path, report):
    where = f'{key}: {path}'
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        classes = list(dataset_classes(leaf, cfg.default_scope) or ())
    table, annotations = files.read(where, path, is_unlabeled(leaf))
    category_ids, names = check_categories(where, table['categories'], classes, report)
    with_masks = any(
        type_name(step.get('type', '')) == 'LoadAnnotations' and step.get('with_mask') for step in leaf.get('pipeline') or ()
    )
    masks = files.masks(path, annotations) if with_masks else None
    check_geometry(annotations, masks, report)
    kept, used = check_annotations(annotations, category_ids, table['categories'], leaf, masks, report)
    check_images(where, leaf, table['images'], kept, report)
    check_image_sample(cfg, key, leaf, [image for image in table['images'] if image['id'] in kept], report)
    report.data[key] = ImageCounts(len(table['images']), len(kept), len(classes))
    id_of = {category['id']: category['name'] for category in table['categories']}
    return CheckedDataset(loader, key, leaf, path, names, {id_of[category] for category in used})


def _check_metrics(cfg, files, loader, datasets, report):
    """Check the files that the metrics of a loader score."""
    leaves = [(dataset.key, dataset.leaf) for dataset in datasets]
    for key, evaluator in coco_metrics(cfg, loader) if datasets else ():
        check_options(key, evaluator)
        check_predicted_masks(cfg, key, evaluator)
        path = evaluator_file(key, evaluator, leaves)
        if path is None:
            continue
        same = next((dataset for dataset in datasets if os.path.samefile(dataset.path, path)), None)
        where = f'{same.key if same else f"{key}.ann_file"}: {path}'
        table, annotations = files.read(where, path)
        compare_files(key, path, table, [(dataset.path, files.read('', dataset.path)[0]) for dataset in datasets], report)
        category_ids, names = check_categories(where, table['categories'], datasets[0].names, Report() if same else report)
        check_orders({datasets[0].key: datasets[0].names, f'{key}.ann_file': names})
        masks = files.masks(path, annotations) if scores_masks(evaluator) else None
        if not same:
            check_geometry(annotations, masks, report)
        scored = check_scoring(key, annotations, masks, category_ids, table['categories'], report)
        id_of = {category['id']: category['name'] for category in table['categories']}
        for dataset in datasets:
            dataset.used = {id_of[category] for category in scored}
            check_scored_images(key, dataset.key, dataset.leaf, annotations, report)


def _is_plain_coco(cls):
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.api_wrappers import COCO

    if not isinstance(cls, type) or not issubclass(cls, CocoDataset) or cls.COCOAPI is not COCO:
        return False
    return all(getattr(cls, name) is getattr(CocoDataset, name) for name in ('load_data_list', 'parse_data_info', 'filter_data'))


def is_unlabeled(leaf):
    """Whether a dataset is the unlabeled part of semi-supervised training: its pipeline makes empty annotations."""
    return any(type_name(step.get('type', '')) == 'LoadEmptyAnnotations' for step in leaf.get('pipeline') or ())


def read_coco(path, unlabeled=False):
    """The content of a COCO file.

    Args:
        unlabeled: whether the list of annotations may be missing, as in COCO's `image_info_unlabeled2017.json`; it is then empty.

    Raises:
        DataError: it is not JSON, or does not have COCO's lists of dicts.
    """
    size = os.path.getsize(path)
    if size > LARGE:
        log_once(f'Reading {path} ({size_text(size)}); this takes about {size / 60e6:.0f} s.')
    try:
        table = json.loads(Path(path).read_bytes().decode())  # twice as fast as reading text
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError too
        raise DataError(
            f'{absolute(path)}: expected a COCO file, but it is not JSON or is incomplete ({error}). Create or copy it again.'
        ) from error
    if not isinstance(table, dict):
        raise DataError(f'{absolute(path)}: expected a COCO file, a dict with {", ".join(LISTS)}; it is a {type(table).__name__}.')
    if unlabeled:
        table.setdefault('annotations', [])
    for name in LISTS:
        rows = table.get(name)
        if not isinstance(rows, list) or not set(map(type, rows)) <= {dict}:
            found = 'is missing' if rows is None else f'is a {type(rows).__name__}, or not all of its entries are dicts'
            raise DataError(
                f'{absolute(path)}: expected a COCO file of instances with three lists of dicts, images, annotations and '
                f'categories. {name!r} {found}; the file has {", ".join(table) or "nothing"}.'
            )
    return table


@contextmanager
def _garbage_collection_off():
    """Without Python's garbage collector, which takes half of the time while there are millions of objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def check_annotations(annotations: Annotations, category_ids, categories, leaf, masks, report):
    """Count the annotations that are used in training and those that mmdet skips.

    Args:
        category_ids: ids of the categories that are classes.
        categories: all categories of the file.
        leaf: config of the dataset.
        masks: `Masks` if its pipeline loads masks, else None.

    Returns:
        The ids of the images that mmdet reads, and the ids of the categories with an annotation that is used.

    Raises:
        DataError: a box that is infinite; masks are missing; no image or, in training, no annotation is left.
    """
    where, total = annotations.where, len(annotations)
    reasons = annotations.skipped(category_ids)
    used = reasons == 0
    infinite = used & ~np.isfinite(annotations.boxes).all(1)
    if infinite.any():
        raise DataError(
            f'{where}: expected finite boxes, but mmdet would train with the infinite box of {annotations.first(infinite)}. '
            'Fix or remove it.'
        )
    counts = Counter({REASONS[index]: int((reasons == index).sum()) for index in range(1, len(REASONS))})
    counts['crowd'] = int((used & annotations.crowd).sum())
    trained = used & ~annotations.crowd
    if masks is not None:
        missing = used & (masks.status == NO_MASK)
        if missing.any():
            raise DataError(
                f'{where}: the pipeline loads masks (with_mask=True), but {missing.sum()} of the {used.sum()} annotations have '
                "no `segmentation`, which ends in KeyError: 'mask'. Add masks, or train a detector of boxes, with with_mask=False."
            )
        counts['bad mask'] = int((used & (masks.status == BAD_MASK)).sum())
        trained &= masks.status != BAD_MASK
    kept = _kept_images(annotations, used, category_ids, leaf, report)
    if leaf.get('test_mode') or is_unlabeled(leaf):
        return kept, set(compress(annotations.category_ids, trained))
    skipped = _skipped_sentence(counts)
    if not trained.any():
        raise DataError(f'{where}: no annotation is left for training, of {total}. {skipped}{_mixed_ids(annotations)}')
    if skipped:
        many = counts['ignore'] + counts['outside'] + counts['extent'] > MANY_SKIPPED * total
        (report.warnings if many else report.notes).append(f'{where}: {skipped}')
    lost = {
        'belong to an image or a category that the file does not list': annotations.unknown(categories),
        'have NaN in their box': np.isnan(annotations.boxes).any(1),
    }
    if masks is not None:
        lost['have no polygon of three points, or run lengths without counts or size'] = masks.status == BAD_MASK
    for text, rows in lost.items():
        if rows.any():
            report.warnings.append(
                f'{where}: {rows.sum()} of {total} annotations {text}, and are not trained with. Fix or remove them. The first is '
                f'{annotations.first(rows)}.'
            )
    return kept, set(compress(annotations.category_ids, trained))


def _mixed_ids(annotations):
    """A sentence if the image ids of images and annotations have different types."""
    kinds = [{type(value).__name__ for value in values} for values in (annotations.images, annotations.image_ids)]
    return f' Image ids are {kinds[0]} in `images`, and {kinds[1]} in `annotations`.' if kinds[0] != kinds[1] else ''


def _kept_images(annotations, used, category_ids, leaf, report):
    """The ids that `CocoDataset.filter_data` keeps."""
    where, images = annotations.where, annotations.images
    # ids of images with an annotation of a class, of any extent (mmdet filters by these), and with one that is used
    annotated = annotations.images_of(annotations.of_classes(category_ids))
    with_boxes = annotations.images_of(used)
    filters = {} if leaf.get('test_mode') else leaf.get('filter_cfg') or {}
    drops_empty, min_size = filters.get('filter_empty_gt', False), filters.get('min_size', 0)
    small = {key for key, image in images.items() if min(image['width'], image['height']) < min_size}
    empty = set(images) - annotated
    kept = set(images) - small - (empty if drops_empty else set())
    if not kept:
        raise DataError(
            f'{where}: no image is left of {len(images)}: {len(empty)} have no annotation of a class, {len(small)} are smaller '
            f'than filter_cfg.min_size={min_size}. mmdet would end in "need at least one array to concatenate". Fix the '
            f'annotation file or filter_cfg.{_mixed_ids(annotations)}'
        )
    if small:
        report.notes.append(f'{where}: {len(small)} images are skipped, as they are smaller than filter_cfg.min_size={min_size}.')
    if empty:
        use = 'skipped' if drops_empty else 'read as images without objects'
        report.notes.append(f'{where}: {len(empty)} of {len(images)} images have no annotation of a class and are {use}.')
    if annotated - with_boxes:
        names = [images[key]['file_name'] for key in annotated - with_boxes]
        report.notes.append(f'{where}: {len(names)} images have annotations, none of which is used: {first_names(names)}.')
    return kept


def _skipped_sentence(counts):
    """The counts of annotations that are not used in training, as a sentence; '' if there are none."""
    parts = [f'{counts[reason]} {description}' for reason, description in SKIPPED.items() if counts[reason]]
    if counts['bad mask']:
        parts.append(f'{counts["bad mask"]} have an invalid mask, such as a polygon of fewer than three points')
    sentences = [f'mmdet silently skips annotations: {", ".join(parts)}.'] if parts else []
    if counts['crowd']:
        sentences.append(f'{counts["crowd"]} are crowds, which do not count as objects in training.')
    return ' '.join(sentences)

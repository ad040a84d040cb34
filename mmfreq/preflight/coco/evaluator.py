"""What mmdet's `CocoMetric` cannot score, or scores wrongly: pycocotools reads the annotation file by rules of its own.

It needs fields that mmdet's training does not (`iscrowd`), stops at masks that training skips, takes the annotation id 0 for "no
match", and counts what mmdet skips as objects that were missed. All of this shows only after the first epoch, or never.
"""

import os
import re
from collections import Counter

import numpy as np
from mmengine.registry import MODELS

from mmfreq.config.reading import absolute, is_remote, type_name
from mmfreq.errors import DataError
from mmfreq.preflight.coco.annotations import first_duplicate
from mmfreq.preflight.coco.masks import NO_MASK
from mmfreq.preflight.data import first_names
from mmfreq.preflight.evaluators import check_save_best, metrics

MASK_METRICS = ('segm',)
MAX_AREA = 1e10  # of pycocotools; it ignores larger and negative areas
METRICS = ('bbox', 'segm', 'proposal', 'proposal_fast')
ITEMS = tuple(f'mAP{of}' for of in ('', '_50', '_75', '_s', '_m', '_l'))
ITEMS += tuple(f'AR{of}' for of in ('@100', '@300', '@1000', '_s@1000', '_m@1000', '_l@1000'))
MASK_MODELS = re.compile('mask_head|panoptic|segm|Mask|Ins[A-Z]|SOLO')  # names in the configs of models that predict masks


def coco_metrics(cfg, loader):
    """Yield (config key, config) of the `CocoMetric` that score the dataset of a loader, except those that only write files."""
    key = loader.replace('dataloader', 'evaluator')
    several = isinstance(cfg.get(key), (list, tuple))
    for index, evaluator in enumerate(metrics(cfg, key)):
        if type_name(evaluator.get('type', '')) == 'CocoMetric' and not evaluator.get('format_only'):
            yield (f'{key}.{index}' if several else key), evaluator


def scores_masks(evaluator):
    """Whether a `CocoMetric` compares masks."""
    return any(name in MASK_METRICS for name in _names(evaluator))


def check_predicted_masks(cfg, key, evaluator):
    """Raise if a `CocoMetric` compares masks, and the model is one of mmdet's that predict only boxes."""
    model = cfg.model.get('module') or cfg.model
    if not scores_masks(evaluator) or MASK_MODELS.search(str(model)):
        return
    parts = [model, *(model[head] for head in ('bbox_head', 'roi_head') if isinstance(model.get(head), dict))]
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        known = [getattr(registry.get(str(part.get('type'))), '__module__', '').startswith('mmdet.') for part in parts]
    if all(known):
        raise DataError(
            f'{key} compares masks (segm), but the model predicts only boxes: the evaluation would end in "segm is not in '
            f'results". Set {key}.metric=bbox, or train a model with a mask_head.'
        )


def check_options(key, evaluator):
    """Raise for options with which a `CocoMetric` fails after the first epoch, or scores nothing."""
    names, items = _names(evaluator), evaluator.get('metric_items') or ()
    for option, values, known in (('metric', names, METRICS), ('metric_items', items, ITEMS)):
        unknown = [value for value in values if value not in known]
        if unknown or not (values or option == 'metric_items'):
            raise DataError(
                f'{key}.{option}: expected some of {", ".join(known)}; got {", ".join(map(str, unknown)) or "none"}. Set '
                f'--cfg-options {key}.{option}={known[0]}'
            )


def check_best(cfg):
    """Raise if `save_best` is no score of `val_evaluator`, if all of its metrics are a `CocoMetric`."""
    found = metrics(cfg)
    if all(type_name(metric.get('type', '')) == 'CocoMetric' and not metric.get('classwise') for metric in found):
        check_save_best(cfg, [score for metric in found for score in _scores(metric)])


def _names(evaluator):
    """The metrics of a `CocoMetric`."""
    names = evaluator.get('metric', 'bbox')
    return list(names) if isinstance(names, (list, tuple)) else [names]


def _scores(evaluator):
    """The names of the scores of a `CocoMetric`."""
    items, prefix = evaluator.get('metric_items'), evaluator.get('prefix') or 'coco'
    for name in _names(evaluator):
        if name == 'proposal_fast':
            yield from (f'{prefix}/AR@{number}' for number in evaluator.get('proposal_nums') or (100, 300, 1000))
        elif name == 'proposal':
            yield from (f'{prefix}/{item}' for item in items or ITEMS[6:])
        else:
            yield from (f'{prefix}/{name}_{item}' for item in items or ITEMS[:6])


def evaluator_file(key, evaluator, leaves):
    """The path of an evaluator's annotation file; None if it has none, or it is remote.

    Args:
        leaves: (config key, config) of the loader's datasets.

    Raises:
        DataError: the file does not exist; there is none, and the samples do not have the objects.
    """
    ann_file = evaluator.get('ann_file')
    if not ann_file:
        _check_packed_objects(key, leaves)
        return None
    if is_remote(ann_file):
        return None
    if not os.path.isfile(ann_file):
        raise DataError(
            f'{key}.ann_file={ann_file!r} is not a file: looked at {absolute(ann_file)}. Set it with '
            f'--cfg-options {key}.ann_file=/path/to/file.json'
        )
    return ann_file


def compare_files(key, path, scored, datasets, report):
    """Compare the file of an evaluator with those of the datasets of its loader.

    Args:
        scored: the evaluator's file, as read from JSON.
        datasets: (path, content) of the file of each dataset.

    Raises:
        DataError: a dataset has images that the file does not list, or several datasets read the same ones.
    """
    ids = {image['id'] for image in scored['images']}
    for other, table in datasets:
        if table is scored or table == scored:  # the same file, or a copy
            continue
        unknown = [image['id'] for image in table['images'] if image['id'] not in ids]
        if unknown:
            raise DataError(
                f'{key}.ann_file is {path}, but it does not list {len(unknown)} images of {other}, such as {unknown[0]!r}: the '
                'evaluation would end in "Results do not correspond to current coco set". Score one file that has all images.'
            )
        report.warnings.append(
            f'{key}.ann_file is {path}, but the dataset reads {other}: the scores would be computed from other annotations.'
        )
    if len(datasets) > 1:
        counts = Counter(image['id'] for _, table in datasets for image in table['images'])
        image, count = counts.most_common(1)[0]
        if count > 1:
            raise DataError(
                f'{key}: the image id {image!r} is in {count} of the datasets that {path} scores, so the detections of {count} '
                'images would count as those of one. Read each image once, with unique ids.'
            )


def _check_packed_objects(key, leaves):
    """Without a file, `CocoMetric` takes the objects from the samples, which have them only if the pipeline packs them."""
    for leaf_key, leaf in leaves:
        packs = [step for step in leaf.get('pipeline') or () if type_name(step.get('type', '')) == 'PackDetInputs']
        if packs and not any('instances' in (step.get('meta_keys') or ()) for step in packs):
            raise DataError(
                f'Expected an annotation file in {key}.ann_file, or objects in the samples of {leaf_key}; the first validation '
                f"would end in an AssertionError. Set {key}.ann_file, or add 'instances' to meta_keys of PackDetInputs."
            )


def check_scoring(key, annotations, masks, category_ids, categories, report):
    """Check that pycocotools can score a file, and that it scores what it seems to.

    Args:
        annotations: of the evaluator's file.
        masks: their `Masks` if the evaluator compares masks, else None.
        category_ids: the ids of the categories that are classes.
        categories: all categories of the file.

    Returns:
        The ids of the categories with an object that is scored.

    Raises:
        DataError: the evaluation would fail or hang, or has nothing to score.
    """
    where, rows = annotations.where, annotations.rows
    scored = annotations.listed & annotations.of_classes(category_ids)
    _check_ids(where, annotations, report)
    missing = np.array([row.get('iscrowd') is None for row in rows], bool)
    if missing.any():
        raise DataError(
            f'{where}: {missing.sum()} of {len(rows)} annotations have no `iscrowd`, and the evaluation would end in KeyError: '
            f'\'iscrowd\' after the first epoch. Add "iscrowd": 0 to each (1 for a group of objects). The first is '
            f'{annotations.first(missing)}.'
        )
    infinite = ~(np.isfinite(annotations.boxes).all(1) & np.isfinite(annotations.areas))
    if infinite.any():
        raise DataError(
            f'{where}: {infinite.sum()} annotations have NaN or infinity in bbox or area, and a box of NaN matches everything. Fix '
            f'or remove them. The first is {annotations.first(infinite)}.'
        )
    if masks is not None and (masks.unscored & scored).any():
        fails = masks.unscored & scored
        fault = 'no `segmentation`'
        if not (masks.status[fails] == NO_MASK).all():
            fault = 'no polygon of three points, a first one of fewer, or run lengths without counts or size'
        raise DataError(
            f'{where}: {key} compares masks (segm), but {fails.sum()} annotations have {fault}. Give each polygon at least three '
            f'points, or remove the annotations, or set {key}.metric=bbox. The first is {annotations.first(fails)}.'
        )
    ignored = (annotations.areas < 0) | (annotations.areas > MAX_AREA)
    objects = scored & ~annotations.crowd & ~ignored
    if not objects.any():
        raise DataError(f'{where}: {_nothing_scored(annotations, category_ids)} Every AP would be -1.')
    _warn_of_missed(key, annotations, objects, report)
    if (scored & ignored).any():
        report.warnings.append(
            f'{where}: {(scored & ignored).sum()} annotations have an area below 0 or above 1e10 and are not scored. Fix it, or '
            f'remove them. The first is {annotations.first(scored & ignored)}.'
        )
    _warn_of_unknown(key, annotations, categories, report)
    return {category for category, counts in zip(annotations.category_ids, objects) if counts}


def _check_ids(where, annotations, report):
    ids = [row['id'] for row in annotations.rows]
    texts = np.array([isinstance(value, str) for value in ids], bool)
    if texts.any():
        raise DataError(
            f'{where}: expected integers as annotation ids, but {texts.sum()} of {len(ids)} are text, with which the evaluation '
            f'ends in a ValueError. Number the annotations from 1. The first is {annotations.first(texts)}.'
        )
    zero = np.array([value == 0 for value in ids], bool)
    if zero.any():
        report.warnings.append(
            f'{where}: an annotation has the id 0, which pycocotools takes for "no match": a correct detection of it counts as '
            f'wrong, and AP is too low. Number the annotations from 1 instead of 0. It is {annotations.first(zero)}.'
        )


def _nothing_scored(annotations, category_ids):
    """Why a file has no object to score, as a sentence."""
    if not len(annotations):
        return 'the file has no annotations.'
    listed, known = annotations.listed, annotations.of_classes(category_ids)
    if (listed & known).any():
        return (
            f'all {(listed & known).sum()} annotations of the classes are crowds (iscrowd=1) or have an area below 0 or above '
            '1e10, which are not scored.'
        )
    field, values, keys = (
        ('category_id', annotations.category_ids, category_ids)
        if listed.any()
        else ('image_id', annotations.image_ids, annotations.images)
    )
    return (
        f'no annotation belongs to a listed image and a class: {field} is {values[0]!r} ({type(values[0]).__name__}) in the first '
        f'annotation, and the ids are {first_names(map(repr, keys))}. Both must be equal, and of one type.'
    )


def _warn_of_missed(key, annotations, objects, report):
    """Warn of what no prediction can match, which lowers AP without a message."""
    width, height = annotations.boxes[:, 2:].T
    empty = objects & ((annotations.inside == 0) | (width <= 0) | (height <= 0))
    groups = {
        'have a box without extent or outside of their image': empty,
        'have ignore=1, which pycocotools does not read': objects & annotations.ignored & ~empty,
    }
    for text, rows in groups.items():
        if rows.any():
            report.warnings.append(
                f'{annotations.where}: {rows.sum()} annotations {text}; {key} counts them as objects that were missed, which '
                f'lowers AP. Fix or remove them, or set iscrowd=1. The first is {annotations.first(rows)}.'
            )
    boxes = [
        (image, category, *box)
        for image, category, box, counts in zip(
            annotations.image_ids, annotations.category_ids, annotations.boxes.tolist(), objects
        )
        if counts
    ]
    repeated = len(boxes) - len(set(boxes))
    if repeated:
        image, _, *box = first_duplicate(boxes)
        report.warnings.append(
            f'{annotations.where}: {repeated} annotations repeat another one (same image, category and box); of each pair one '
            f'counts as missed, which lowers AP; for example bbox {box} in image {image!r}. Remove the copies.'
        )


def _warn_of_unknown(key, annotations, categories, report):
    """Warn of objects whose image or category the file does not list: they are not scored, and their detections count as wrong."""
    unknown = annotations.unknown(categories)
    if unknown.any():
        report.warnings.append(
            f'{annotations.where}: {unknown.sum()} annotations belong to an image or a category that the file does not list; {key} '
            f'does not score them, and counts detections of them as wrong. Fix or remove them. The first is '
            f'{annotations.first(unknown)}.'
        )


def check_scored_images(key, leaf_key, leaf, annotations, report):
    """Warn if a dataset leaves out images that the evaluator scores."""
    filters = leaf.get('filter_cfg') or {}
    reason = ''
    if leaf.get('indices') is not None:
        reason = f'{leaf_key}.indices selects images'
    elif not leaf.get('test_mode') and any(filters.values()):
        reason = f'{leaf_key} has no test_mode=True, so filter_cfg removes images'
    if reason:
        report.warnings.append(
            f'{reason}, but {key} scores all {len(annotations.images)} images of its file: the objects of the others count as '
            'missed. Read all images in validation, or score a file of those that are read.'
        )

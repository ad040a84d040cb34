"""Detection datasets: the COCO file of each, compared with what mmdet's `CocoDataset` does with it.

mmdet 3.3 numbers the classes in the order of the file's categories, not in that of `metainfo`, and silently skips annotations
without a category, image or extent. The checks count what it skips. In messages `where` is 'CONFIG_KEY: PATH_OF_THE_FILE'.
"""

import gc
import json
import logging
import math
import os
from collections import Counter
from contextlib import contextmanager

from mmengine.registry import DefaultScope

from mmfreq.config.reading import absolute, is_remote, type_name
from mmfreq.errors import DataError
from mmfreq.log import log_once
from mmfreq.preflight.data import FolderListing, dataset_class, dataset_classes, first_names, loader_datasets
from mmfreq.preflight.report import ImageCounts, size_text

LISTS = ('images', 'annotations', 'categories')
LARGE = 50 * 2**20  # bytes; for larger files the log says that reading takes a while
IMAGE_KEYS = {'id': (int, str), 'file_name': str, 'width': (int, float), 'height': (int, float)}
SKIPPED = {  # why mmdet skips an annotation -> how the log describes it
    'ignore': 'have ignore=1',
    'image': 'belong to images that the file does not list',
    'outside': 'lie outside of their image, or have NaN in their box',
    'extent': 'are narrower or lower than 1 pixel, or have no area',
    'category': 'belong to categories that are not a class',
}


def check_coco(cfg, report, loaders):
    """Check the annotation files of the loaders' COCO datasets, except of subclasses that read them in their own way.

    Raises:
        DataError: mmdet cannot train with the file, its categories, file names or annotations.
    """
    tables, orders = {}, {}
    for key, leaf in loader_datasets(cfg, loaders):
        path = os.path.join(leaf.get('data_root') or '', leaf.get('ann_file') or '')
        if not _is_plain_coco(dataset_class(leaf, cfg.default_scope)) or is_remote(path) or not leaf.get('ann_file'):
            log_once(f'The annotations of {key} ({leaf.get("type")}) are not checked.', level=logging.DEBUG)
            continue
        if path not in tables:
            tables[path] = read_coco(path, is_unlabeled(leaf))
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            classes = list(dataset_classes(leaf, cfg.default_scope) or ())
        where = f'{key}: {path}'
        category_ids, orders[key] = check_categories(where, tables[path]['categories'], classes, report)
        with_masks = any(
            type_name(step.get('type', '')) == 'LoadAnnotations' and step.get('with_mask') for step in leaf.get('pipeline') or ()
        )
        kept = check_annotations(where, tables[path], category_ids, leaf, with_masks, report)
        check_images(where, leaf, tables[path]['images'], kept, report)
        report.data[key] = ImageCounts(len(tables[path]['images']), len(kept), len(classes))
    _check_orders(orders)
    _check_evaluators(cfg, loaders, report)


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
        with open(path, encoding='utf-8') as file, _garbage_collection_off():
            table = json.load(file)
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
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            found = 'is missing' if rows is None else f'is a {type(rows).__name__}, or not all of its entries are dicts'
            raise DataError(
                f'{absolute(path)}: expected a COCO file of instances with three lists of dicts, images, annotations and '
                f'categories. {name!r} {found}; the file has {", ".join(table) or "nothing"}.'
            )
    return table


@contextmanager
def _garbage_collection_off():
    """Without Python's garbage collector, which takes half of the time while millions of objects are created."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def check_categories(where, categories, classes, report):
    """Compare the categories of a file with the class names of the dataset.

    Returns:
        The ids of the categories that are classes, and their names in the order of the labels.

    Raises:
        DataError: a category without name or id, or a duplicate; a class that is not a category.
    """
    for index, category in enumerate(categories):
        if not isinstance(category.get('name'), str) or not isinstance(category.get('id'), int):
            raise DataError(f'{where}: expected an integer `id` and a string `name`, but categories[{index}] is {category}.')
    for field in ('id', 'name'):
        values = [category[field] for category in categories]
        duplicates = sorted({value for value in values if values.count(value) > 1})
        if duplicates:
            raise DataError(f'{where}: two categories have the {field} {first_names(map(repr, duplicates))}. Make it unique.')
    id_of = {category['name']: category['id'] for category in categories}
    unknown = [name for name in classes if name not in id_of]
    if unknown:
        raise DataError(
            f'{where}: {len(unknown)} of the {len(classes)} classes are not categories of the file: {first_names(unknown, 10)}. '
            f'The file has {first_names(id_of, 20) or "no category"}. Name the classes as the file does, '
            f'metainfo=dict(classes={tuple(id_of)[:20]!r}), in every dataset, and set num_classes of the heads.'
        )
    used = [name for name in id_of if name in set(classes)]
    if used != list(classes):
        at = _first_difference(used, classes)
        report.warnings.append(
            f'{where}: mmdet numbers the classes in the order of the categories in the file, but `metainfo` has another order: '
            f'label {at} is {used[at]!r} and would be drawn as {classes[at]!r}. Scores are right; for right names in drawn images '
            'and in checkpoints use the order of the file.'
        )
    unused = [name for name in id_of if name not in set(classes)]
    if unused:
        report.notes.append(
            f'{where}: {len(unused)} categories are not a class of the dataset and are skipped: {first_names(unused)}.'
        )
    return {id_of[name] for name in used}, used


def _first_difference(one, other):
    return next(index for index, pair in enumerate(zip(one, other)) if pair[0] != pair[1])


def check_annotations(where, table, category_ids, leaf, with_masks, report):
    """Count the annotations that are used in training and those that mmdet skips.

    Args:
        table: content of the file.
        category_ids: ids of the categories that are classes.
        leaf: config of the dataset.
        with_masks: whether its pipeline loads masks.

    Returns:
        The ids of the images that mmdet reads.

    Raises:
        DataError: images or annotations without fields that mmdet reads, or duplicates; no image or, in training, no box is left.
    """
    images = {}
    for index, image in enumerate(table['images']):
        invalid = [key for key, types in IMAGE_KEYS.items() if not isinstance(image.get(key), types)]
        if invalid:
            raise DataError(f'{where}: images[{index}] has no valid {", ".join(invalid)}: {_short(image)}. Fix the entry.')
        if image['id'] in images:
            other = images[image['id']]['file_name']
            raise DataError(
                f'{where}: two images have the id {image["id"]!r}, {other} and {image["file_name"]}; mmdet would use the second, '
                'with the boxes of both. Make the ids unique.'
            )
        images[image['id']] = image
    # Ids of images with an annotation of a class, of any extent (mmdet filters by these), and with one that is used.
    annotated, with_boxes = set(), set()
    counts, annotation_ids = Counter(), set()
    for index, row in enumerate(table['annotations']):
        _check_fields(where, index, row, annotation_ids)
        image = images.get(row['image_id'])
        if image is not None and row['category_id'] in category_ids:
            annotated.add(row['image_id'])
        reason = 'image' if image is None else _why_skipped(row, image, category_ids)
        if reason:
            counts[reason] += 1
            continue
        if not all(map(math.isfinite, row['bbox'])):
            raise DataError(
                f'{where}: expected finite boxes, but annotations[{index}] has an infinite box, which mmdet would train with: '
                f'{_short(row)}. Fix or remove it.'
            )
        with_boxes.add(row['image_id'])
        counts['kept'] += 1
        counts['crowd'] += bool(row.get('iscrowd'))
        if with_masks:
            counts[_mask_status(row)] += 1
    if counts['no mask']:
        raise DataError(
            f'{where}: the pipeline loads masks (with_mask=True), but {counts["no mask"]} of the {counts["kept"]} annotations have '
            "no `segmentation`, which ends in KeyError: 'mask'. Add masks, or train a detector of boxes, with with_mask=False."
        )
    kept = _kept_images(where, images, annotated, with_boxes, leaf, report)
    skipped = _skipped_sentence(counts)
    if not leaf.get('test_mode') and not is_unlabeled(leaf) and not counts['kept'] - counts['crowd']:
        raise DataError(f'{where}: no annotation is left for training, of {len(table["annotations"])}. {skipped}')
    if skipped:
        report.notes.append(f'{where}: {skipped}')
    return kept


def _check_fields(where, index, row, annotation_ids):
    box, area = row.get('bbox'), row.get('area')
    invalid = [key for key in ('id', 'image_id', 'category_id') if not isinstance(row.get(key), (int, str))]
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, (int, float)) for value in box):
        invalid.append('bbox (x, y, width, height)')
    if not isinstance(area, (int, float)):
        invalid.append('area (in pixels; width * height if there is no mask)')
    if invalid:
        raise DataError(f'{where}: annotations[{index}] has no valid {", ".join(invalid)}, which mmdet reads: {_short(row)}.')
    if row['id'] in annotation_ids:
        raise DataError(f'{where}: two annotations have the id {row["id"]!r}, which mmdet refuses. Make the ids unique.')
    annotation_ids.add(row['id'])


def _why_skipped(row, image, category_ids):
    """Why mmdet skips an annotation, tested in its order; '' if it uses it."""
    if row.get('ignore', False):
        return 'ignore'
    x, y, width, height = row['bbox']
    inside_x = max(0, min(x + width, image['width']) - max(x, 0))
    inside_y = max(0, min(y + height, image['height']) - max(y, 0))
    if inside_x * inside_y == 0:
        return 'outside' if (width > 0 and height > 0) or math.isnan(x + y + width + height) else 'extent'
    if row['area'] <= 0 or width < 1 or height < 1:
        return 'extent'
    return '' if row['category_id'] in category_ids else 'category'


def _mask_status(row):
    """'no mask', 'bad mask' or 'mask': how `LoadAnnotations(with_mask=True)` treats a segmentation."""
    mask = row.get('segmentation')
    if not mask:
        return 'no mask'
    if isinstance(mask, list):
        valid = any(isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 for part in mask)
    else:
        valid = isinstance(mask, dict) and isinstance(mask.get('counts'), (list, str)) and mask.get('size') is not None
    return 'mask' if valid else 'bad mask'


def _kept_images(where, images, annotated, with_boxes, leaf, report):
    """The ids that `CocoDataset.filter_data` keeps."""
    filters = {} if leaf.get('test_mode') else leaf.get('filter_cfg') or {}
    drops_empty, min_size = filters.get('filter_empty_gt', False), filters.get('min_size', 0)
    small = {key for key, image in images.items() if min(image['width'], image['height']) < min_size}
    empty = set(images) - annotated
    kept = set(images) - small - (empty if drops_empty else set())
    if not kept:
        raise DataError(
            f'{where}: no image is left of {len(images)}: {len(empty)} have no annotation of a class, {len(small)} are smaller '
            f'than filter_cfg.min_size={min_size}. mmdet would end in "need at least one array to concatenate". Fix the '
            'annotation file or filter_cfg.'
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
        parts.append(f'{counts["bad mask"]} have an invalid mask')
    sentences = [f'mmdet silently skips annotations: {", ".join(parts)}.'] if parts else []
    if counts['crowd']:
        sentences.append(f'{counts["crowd"]} are crowds, which do not count as objects in training.')
    return ' '.join(sentences)


def _short(row):
    text = str(row)
    return text if len(text) <= 200 else text[:200] + '...'


def check_images(where, leaf, images, kept, report):
    """Check that the image files of a COCO file exist and are inside of the image folder.

    Args:
        kept: ids of the images that mmdet reads.

    Raises:
        DataError: a file name that leads out of the folder, or images that do not exist.
    """
    prefix = leaf.get('data_prefix') or {}
    folder = os.path.join(leaf.get('data_root') or '', (prefix.get('img') if isinstance(prefix, dict) else prefix) or '')
    outside = [image['file_name'] for image in images if leads_outside(image['file_name'])]
    if outside:
        raise DataError(
            f'{where}: expected file names inside of the image folder {folder or "."}, but {len(outside)} file names lead out of '
            f'it: {first_names(outside)}. They are refused, as such a name can point to any file of this computer. Write names '
            'relative to data_prefix.img, or set data_prefix.img to a folder that contains all images.'
        )
    if is_remote(folder) or (leaf.get('backend_args') or {}).get('backend', 'local') != 'local':
        return
    files = FolderListing()
    missing = [image for image in images if not files.has(os.path.join(folder, image['file_name']))]
    needed = [image['file_name'] for image in missing if image['id'] in kept]
    if needed:
        raise DataError(
            f'{where}: expected {len(kept)} images in {folder or "."}, but {len(needed)} of the {len(kept)} images do not exist: '
            f'{first_names(needed)}. Copy them there, set data_prefix.img to their folder, or remove them from the file.'
        )
    if missing:
        names = first_names(image['file_name'] for image in missing)
        report.notes.append(f'{where}: {len(missing)} images do not exist, but are skipped anyway: {names}.')


def leads_outside(name):
    """Whether a file name, relative to a folder, leads out of it. Links are not followed."""
    name = name.replace('\\', '/')
    return name.startswith('/') or name[1:2] == ':' or os.path.normpath(name).split('/')[0] == '..' or '\0' in name


def _check_orders(orders):
    """Raise if two datasets number their classes differently: a label would mean another class in each."""
    for key, names in orders.items():
        first, expected = next(iter(orders.items()))
        if names != expected and sorted(names) == sorted(expected):
            at = _first_difference(expected, names)
            raise DataError(
                f'Expected the same order of categories in {first} and {key}, as mmdet numbers the classes by it, but label {at} '
                f'is {expected[at]!r} in the first and {names[at]!r} in the second. Sort the "categories" of both files the same '
                'way; the ids can stay.'
            )


def _check_evaluators(cfg, loaders, report):
    """Raise if the annotation file of an evaluator does not exist; warn if it is not that of the dataset."""
    for loader in loaders:
        key = loader.replace('dataloader', 'evaluator')
        evaluators = cfg.get(key) or []
        for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
            ann_file = evaluator.get('ann_file')
            if not ann_file or is_remote(ann_file) or not cfg.get(loader):
                continue
            if not os.path.isfile(ann_file):
                raise DataError(
                    f'{key}.ann_file={ann_file!r} does not exist: looked at {absolute(ann_file)}. Set it with '
                    f'--cfg-options {key}.ann_file=/path/to/file.json'
                )
            read = [
                os.path.join(leaf.get('data_root') or '', leaf.get('ann_file') or '') for _, leaf in loader_datasets(cfg, (loader,))
            ]
            if read and not any(os.path.exists(path) and os.path.samefile(path, ann_file) for path in read):
                report.warnings.append(
                    f'{key}.ann_file is {ann_file}, but the dataset reads {", ".join(read)}: the scores would be computed from '
                    'other annotations.'
                )

"""The categories of a COCO file against the classes of its data set."""

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
from mmfreq.preflight.paths import Folders, dataset_classes, dataset_kind, first_names, leaves_of
from mmfreq.preflight.report import ImageCounts, size_text


def check_categories(where, categories, classes, report):
    """Compare names; what mmdet does with them is told in the messages.

    Returns:
        (ids of the categories in use, their names in the order of the labels).

    Raises:
        DataError: a category without name or id, one twice, or a class that has no category.
    """
    for index, category in enumerate(categories):
        if not isinstance(category.get('name'), str) or not isinstance(category.get('id'), int):
            raise DataError(f'{where}: categories[{index}] is {category}; expected an integer `id` and a text `name`.')
    for what in ('id', 'name'):
        values = [category[what] for category in categories]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise DataError(f'{where}: two categories have the {what} {first_names(map(repr, twice))}; each must be there once.')
    known = {category['name']: category['id'] for category in categories}
    gone = [name for name in classes if name not in known]
    if gone:
        raise DataError(
            f'{where}: {len(gone)} of the {len(classes)} classes are no category of the file: {first_names(gone, 10)}. '
            f'The file has {first_names(known, 20) or "no category"}. mmdet would leave out the annotations, or number the classes '
            f'wrongly. Name the classes as the file does, in every data set: metainfo=dict(classes={tuple(known)[:20]!r}), '
            'and set num_classes of '
            'the heads.'
        )
    used = [name for name in known if name in set(classes)]
    if used != list(classes):
        at = next(index for index, pair in enumerate(zip(used, classes)) if pair[0] != pair[1])
        report.warnings.append(
            f'{where}: mmdet numbers the classes as the categories of the file stand, and `metainfo` names them in another '
            'order: label '
            f'{at} is {used[at]!r}, and would be drawn as {classes[at]!r}. Scores are right; name them in the order of the file '
            'for right '
            f'pictures, and for checkpoints of others.'
        )
    unused = [name for name in known if name not in set(classes)]
    if unused:
        report.notes.append(
            f'{where}: {len(unused)} categories are no class of the data set, and are left out: {first_names(unused)}.'
        )
    return {known[name] for name in used}, used


# The images that a COCO file names: within their folder, and there.


def check_images(where, leaf, images, kept, report):
    """Look at the names of the images, and for the files of those that will be read.

    Args:
        kept: ids of the images that mmdet will read.

    Raises:
        DataError: a name that leads out of the folder of images, or images that are not there.
    """
    prefix = leaf.get('data_prefix') or {}
    folder = os.path.join(leaf.get('data_root') or '', (prefix.get('img') if isinstance(prefix, dict) else prefix) or '')
    outside = [image['file_name'] for image in images if leads_outside(image['file_name'])]
    if outside:
        raise DataError(
            f'{where}: {len(outside)} file names lead out of the folder of images {folder or "."}: {first_names(outside)}. This is '
            'refused, as '
            'such a file could have any file of this machine read. Write names relative to data_prefix.img; if they are meant so, '
            'set data_prefix.img to a folder that holds them all.'
        )
    if is_remote(folder) or (leaf.get('backend_args') or {}).get('backend', 'local') != 'local':
        return
    folders = Folders()
    gone = [image for image in images if not folders.holds(os.path.join(folder, image['file_name']))]
    missed = [image['file_name'] for image in gone if image['id'] in kept]
    if missed:
        raise DataError(
            f'{where}: {len(missed)} of the {len(kept)} images that would be read are not in {folder or "."}: '
            f'{first_names(missed)}. Copy them there, set data_prefix.img to where they are, or take them out of the file.'
        )
    if gone:
        names = first_names(image['file_name'] for image in gone)
        report.notes.append(f'{where}: {len(gone)} images are not there, of those that are left out anyway: {names}.')


def leads_outside(name):
    """Whether a file name, relative to a folder, leads out of it. Links are not followed."""
    name = name.replace('\\', '/')
    return name.startswith('/') or name[1:2] == ':' or os.path.normpath(name).split('/')[0] == '..' or '\0' in name


# The annotations of a COCO file: what `CocoDataset.parse_data_info` of mmdet 3.3 does with each, counted.


IMAGE_KEYS = {'id': (int, str), 'file_name': str, 'width': (int, float), 'height': (int, float)}
LEFT_OUT = {
    'ignore': 'have ignore=1',
    'image': 'are of images that the file does not have',
    'outside': 'lie outside of their image, or have NaN in their box',
    'extent': 'are narrower or lower than 1 pixel, or have no area',
    'category': 'are of categories that are no class',
}


def check_annotations(where, table, category_ids, leaf, with_masks, report):
    """Count what will be trained with, and what will be left out.

    Args:
        table: the content of the file.
        category_ids: of the classes.
        leaf: config of the data set.
        with_masks: whether its pipeline loads masks.

    Returns:
        The ids of the images that will be read.

    Raises:
        DataError: images or annotations without what mmdet reads, or twice; no image or, in training, no box is left.
    """
    images = {}
    for index, image in enumerate(table['images']):
        wrong = [key for key, kinds in IMAGE_KEYS.items() if not isinstance(image.get(key), kinds)]
        if wrong:
            raise DataError(f'{where}: images[{index}] has no valid {", ".join(wrong)}: {_short(image)}')
        if image['id'] in images:
            other = images[image['id']]['file_name']
            raise DataError(
                f'{where}: two images have the id {image["id"]!r}, {other} and {image["file_name"]}; mmdet would use the second, '
                'with the '
                'boxes of both. Number the images anew.'
            )
        images[image['id']] = image
    counts, of_classes, with_boxes, seen = Counter(), set(), set(), set()
    for index, row in enumerate(table['annotations']):
        _check_keys(where, index, row, seen)
        image = images.get(row['image_id'])
        if image is not None and row['category_id'] in category_ids:
            of_classes.add(row['image_id'])  # with a box of no extent, too: mmdet's filter looks at no box
        reason = 'image' if image is None else _left_out(row, image, category_ids)
        if reason:
            counts[reason] += 1
            continue
        if not all(map(math.isfinite, row['bbox'])):
            raise DataError(f'{where}: annotations[{index}] has an infinite box, which mmdet would train with: {_short(row)}')
        with_boxes.add(row['image_id'])
        counts['kept'] += 1
        counts['crowd'] += bool(row.get('iscrowd'))
        if with_masks:
            counts[_mask_fault(row, leaf)] += 1
    if counts['no mask']:
        raise DataError(
            f'{where}: {counts["no mask"]} of the {counts["kept"]} annotations have no `segmentation`, and the pipeline loads '
            'masks '
            "(with_mask=True), which ends in KeyError: 'mask'. Add masks, or train a detector of boxes, with with_mask=False."
        )
    kept = _kept_images(where, images, of_classes, with_boxes, leaf, report)
    if not leaf.get('test_mode') and not counts['kept'] - counts['crowd']:
        raise DataError(f'{where}: no annotation is left to train with, of {len(table["annotations"])}. {_told(counts)}')
    if told := _told(counts):
        report.notes.append(f'{where}: {told}')
    return kept


def _check_keys(where, index, row, seen):
    box, area = row.get('bbox'), row.get('area')
    wrong = [key for key in ('id', 'image_id', 'category_id') if not isinstance(row.get(key), (int, str))]
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, (int, float)) for value in box):
        wrong.append('bbox (x, y, width, height)')
    if not isinstance(area, (int, float)):
        wrong.append('area (in pixels; width * height where there is no mask)')
    if wrong:
        raise DataError(f'{where}: annotations[{index}] has no valid {", ".join(wrong)}, which mmdet reads: {_short(row)}')
    if row['id'] in seen:
        raise DataError(f'{where}: two annotations have the id {row["id"]!r}, which mmdet refuses. Number them anew.')
    seen.add(row['id'])


def _left_out(row, image, category_ids):
    """Why mmdet leaves out an annotation, in its order; '' if it does not."""
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


def _mask_fault(row, leaf):
    """'no mask', 'bad mask' or 'mask': what `LoadAnnotations(with_mask=True)` makes of a segmentation."""
    mask = row.get('segmentation')
    if not mask:
        return 'no mask'
    if isinstance(mask, list):
        return 'mask' if any(isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 for part in mask) else 'bad mask'
    if not isinstance(mask, dict):
        return 'bad mask'
    return 'mask' if isinstance(mask.get('counts'), (list, str)) and mask.get('size') is not None else 'bad mask'


def _kept_images(where, images, of_classes, with_boxes, leaf, report):
    """The ids that `CocoDataset.filter_data` keeps."""
    filters = leaf.get('filter_cfg') or {}
    filters = {} if leaf.get('test_mode') else filters
    drops_empty, least = filters.get('filter_empty_gt', False), filters.get('min_size', 0)
    small = {key for key, image in images.items() if min(image['width'], image['height']) < least}
    empty = set(images) - of_classes
    kept = set(images) - small - (empty if drops_empty else set())
    if not kept:
        raise DataError(
            f'{where}: no image is left of {len(images)}: {len(empty)} have no annotation of a class, {len(small)} are smaller '
            'than '
            f'filter_cfg.min_size={least}. mmdet would end in "need at least one array to concatenate".'
        )
    if small:
        report.notes.append(f'{where}: {len(small)} images are left out, as they are smaller than filter_cfg.min_size={least}.')
    if empty:
        fate = 'left out' if drops_empty else 'read as images without objects'
        report.notes.append(f'{where}: {len(empty)} of {len(images)} images have no annotation of a class, and are {fate}.')
    if of_classes - with_boxes:
        names = [images[key]['file_name'] for key in of_classes - with_boxes]
        report.notes.append(f'{where}: {len(names)} images have annotations and none that is used: {first_names(names)}.')
    return kept


def _told(counts):
    """The counts of what is not trained with, as a sentence; '' where there is none."""
    parts = [f'{counts[reason]} {told}' for reason, told in LEFT_OUT.items() if counts[reason]]
    if counts['bad mask']:
        parts.append(f'{counts["bad mask"]} have an invalid mask and are not trained with')
    told = f'mmdet leaves out annotations without a word: {", ".join(parts)}.' if parts else ''
    if counts['crowd']:
        told += f'{" " if told else ""}{counts["crowd"]} are crowds, which are no objects in training.'
    return told


def _short(row):
    text = str(row)
    return text if len(text) <= 200 else text[:200] + '...'


# Detection data: the COCO file of each data set, as mmdet's `CocoDataset` reads it.
#
# mmdet 3.3 numbers the classes in the order of the file's categories, not in that of `metainfo`, and leaves out without a word what
# has no category, image or extent; so what it leaves out is counted here.


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
            log_once(f'The annotations of {key} ({leaf.get("type")}) are not looked at.', level=logging.DEBUG)
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
        report.data[key] = ImageCounts(len(tables[path]['images']), len(kept), len(classes))
    _check_orders(order)
    _check_evaluators(cfg, loaders, report)


def read_coco(path):
    """A COCO file as plain data.

    Raises:
        DataError: it is not JSON, or has not the lists of COCO, each of dicts.
    """
    size = os.path.getsize(path)
    if size > LARGE:
        log_once(f'Reading {path} ({size_text(size)}); this takes {size / 60e6:.0f} s or so.')
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

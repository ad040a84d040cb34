"""The annotations of a COCO file: what `CocoDataset.parse_data_info` of mmdet 3.3 does with each, counted."""

import math
from collections import Counter

from mmfreq.engine.errors import DataError
from mmfreq.engine.preflight.folders import some

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
        report.notes.append(f'{where}: {len(names)} images have annotations and none that is used: {some(names)}.')
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

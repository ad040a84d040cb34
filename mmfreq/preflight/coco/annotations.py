"""The annotations of a COCO file as columns: their fields are valid, and which of them mmdet 3.3 silently skips.

Columns instead of rows, because a file has up to a million annotations. Legend: M annotations.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat

import numpy as np

from mmfreq.errors import DataError

NUMBERS, IDS, FLAGS = {int, float}, {int, float, str}, {int, float, bool, type(None)}
FLAG_VALUES = {0, 1, None}
LARGEST = 1e12  # of numbers in pixels; Python's integers may be too large for NumPy
IMAGE_FIELDS = {'id': IDS, 'file_name': {str}, 'width': NUMBERS, 'height': NUMBERS}
ROW_FIELDS = {  # field -> its types and its description in errors
    'id': (IDS, 'id'),
    'image_id': (IDS, 'image_id'),
    'category_id': (IDS, 'category_id'),
    'bbox': ({list}, 'bbox (x, y, width, height)'),
    'area': (NUMBERS, 'area (in pixels; width * height if there is no mask)'),
    'iscrowd': (FLAGS, 'iscrowd (the number 0 or 1; mmdet takes every text for 1)'),
    'ignore': (FLAGS, 'ignore (the number 0 or 1; mmdet takes every text for 1)'),
}
ID_FIELDS = ('id', 'image_id', 'category_id')
SKIPPED = {  # why mmdet skips an annotation, in the order of its tests -> how the log describes it
    'image': 'belong to images that the file does not list',
    'ignore': 'have ignore=1',
    'outside': 'lie outside of their image, or have NaN in their box',
    'extent': 'are narrower or lower than 1 pixel, or have no area',
    'category': 'belong to categories that are not a class',
}
REASONS = ('', *SKIPPED)


@dataclass
class Annotations:
    """The annotations of a file whose fields are valid.

    Attributes:
        where: names the file in messages.
        images: its images by id.
        rows: its annotations.
        boxes: x, y, width, height in pixels, (M, 4).
        areas: (M,).
        image_index: place in `images` of the image of each; -1 if the file does not list it, (M,).
        image_ids, category_ids: lists of M.
        sizes: width and height of the image of each; NaN if the file does not list it, (M, 2).
        crowd, ignored: (M,) bool.
    """

    where: str
    images: dict
    rows: list
    boxes: np.ndarray
    areas: np.ndarray
    image_index: np.ndarray
    image_ids: list
    category_ids: list
    sizes: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray

    def __len__(self):
        return len(self.rows)

    @cached_property
    def listed(self):
        """Whether the file lists the image of each annotation, (M,)."""
        return self.image_index >= 0

    @cached_property
    def inside(self):
        """The area of each box inside of its image, with NaN and unknown images as 0, (M,)."""
        with np.errstate(invalid='ignore'):
            ends = np.minimum(self.boxes[:, :2] + self.boxes[:, 2:], self.sizes)
            return np.nan_to_num(np.maximum(ends - np.maximum(self.boxes[:, :2], 0), 0)).prod(1)

    def of_classes(self, category_ids):
        """Whether the category of each annotation is in `category_ids`, (M,)."""
        known, codes = self._categories
        return np.array([category in category_ids for category in known], bool)[codes]

    @cached_property
    def _categories(self):
        """The ids of categories that occur, and the place of each annotation's in them, (M,)."""
        known = {category: index for index, category in enumerate(dict.fromkeys(self.category_ids))}
        return list(known), np.fromiter(map(known.__getitem__, self.category_ids), int, len(self))

    def images_of(self, condition):
        """The ids of the listed images with an annotation for which `condition` (M,) holds."""
        ids = list(self.images)
        return {ids[index] for index in np.unique(self.image_index[condition & self.listed]).tolist()}

    def skipped(self, category_ids):
        """The index in `REASONS` of why mmdet skips each annotation, 0 for those that it uses, (M,) int."""
        width, height = self.boxes[:, 2], self.boxes[:, 3]
        no_overlap = self.inside == 0
        positive = (width > 0) & (height > 0) | np.isnan(self.boxes).any(1)
        tests = {
            'image': ~self.listed,
            'ignore': self.ignored,
            'outside': no_overlap & positive,
            'extent': no_overlap | (self.areas <= 0) | (width < 1) | (height < 1),
            'category': ~self.of_classes(category_ids),
        }
        return np.select(list(tests.values()), range(1, len(REASONS)), 0)

    def unknown(self, categories):
        """Whether the file does not list the image or the category of each annotation, (M,).

        Args:
            categories: all categories of the file.
        """
        return ~self.listed | ~self.of_classes({category['id'] for category in categories})

    def first(self, condition):
        """The first annotation for which `condition` (M,) holds, as text for a message: 'annotations[3]: {...}'."""
        index = int(np.flatnonzero(condition)[0])
        return f'annotations[{index}]: {short(self.rows[index])}'


def read_annotations(where, table):
    """The annotations of a file's content.

    Raises:
        DataError: an image or annotation without a field that mmdet reads, or with one of another type; a duplicate.
    """
    images = _read_images(where, table['images'])
    rows = table['annotations']
    columns = {field: _column(rows, field) for field in ROW_FIELDS}
    boxes, areas = _check_fields(where, rows, columns)
    ids = columns['id']
    if len(set(ids)) < len(ids):
        raise DataError(f'{where}: two annotations have the id {first_duplicate(ids)!r}, which mmdet refuses. Make the ids unique.')
    place = {key: index for index, key in enumerate(images)}
    image_index = np.fromiter(map(place.get, columns['image_id'], repeat(-1)), int, len(rows))
    sizes = np.array([(image['width'], image['height']) for image in images.values()] + [(np.nan, np.nan)], np.float64)
    return Annotations(
        where,
        images,
        rows,
        boxes=boxes,
        areas=areas,
        image_index=image_index,
        image_ids=columns['image_id'],
        category_ids=columns['category_id'],
        sizes=sizes[image_index],
        crowd=np.fromiter(map(bool, columns['iscrowd']), bool, len(rows)),
        ignored=np.fromiter(map(bool, columns['ignore']), bool, len(rows)),
    )


def _column(rows, field):
    """The values of a field, None where it is missing."""
    return list(map(dict.get, rows, repeat(field)))


def _read_images(where, rows):
    images = {}
    for index, image in enumerate(rows):
        invalid = [field for field, types in IMAGE_FIELDS.items() if type(image.get(field)) not in types]
        invalid += ['id'] if _is_fraction(image.get('id')) else []
        invalid += [] if invalid else [side for side in ('width', 'height') if not 0 < image[side] < LARGEST]
        if invalid:
            raise DataError(f'{where}: images[{index}] has no valid {", ".join(invalid)}: {short(image)}. Fix the entry.')
        if image['id'] in images:
            raise DataError(
                f'{where}: two images have the id {image["id"]!r}, {images[image["id"]]["file_name"]} and {image["file_name"]}; '
                'mmdet would use the second, with the boxes of both. Make the ids unique.'
            )
        images[image['id']] = image
    if 0 < sum(type(key) is str for key in images) < len(images):
        text, number = (next(key for key in images if (type(key) is str) == is_text) for is_text in (True, False))
        raise DataError(
            f'{where}: expected image ids of one type, but there are numbers ({number}) and text ({text!r}), which cannot be '
            'sorted. Use numbers for all.'
        )
    return images


def _check_fields(where, rows, columns):
    """The boxes (M, 4) and areas (M,) of annotations with valid fields.

    Raises:
        DataError: a field of the first invalid annotation.
    """
    types = {field: set(map(type, columns[field])) for field in ('bbox', 'area', *ID_FIELDS)}
    fit = all(types[field] <= ROW_FIELDS[field][0] for field in types) and set(map(len, columns['bbox'])) <= {4}
    if fit and not any(float in types[field] and any(map(_is_fraction, columns[field])) for field in ID_FIELDS):
        arrays = _arrays(columns)
        if arrays is not None:
            return arrays
    for index, row in enumerate(rows):
        invalid = [text for field, (types, text) in ROW_FIELDS.items() if not _fits(row.get(field), types)]
        if type(row.get('bbox')) is list and not (len(row['bbox']) == 4 and all(_fits(each, NUMBERS) for each in row['bbox'])):
            invalid.append(ROW_FIELDS['bbox'][1])
        if invalid:
            raise DataError(f'{where}: annotations[{index}] has no valid {", ".join(invalid)}, which mmdet reads: {short(row)}.')
    raise AssertionError('an annotation is invalid as a column and valid as a row')


def _arrays(columns):
    """Boxes and areas as arrays; None if one of their numbers is none or too large, or a flag is not 0 or 1."""
    boxes = columns['bbox']
    try:
        if not set(map(type, chain.from_iterable(boxes))) <= NUMBERS:  # NumPy would take text and true
            return None
        boxes = np.fromiter(chain.from_iterable(boxes), float, 4 * len(boxes)).reshape(-1, 4)
        areas = np.fromiter(columns['area'], float, len(boxes))
        flags_fit = set(columns['iscrowd']) | set(columns['ignore']) <= FLAG_VALUES
    except (TypeError, OverflowError):  # a flag is a list; an integer is beyond the range of floats
        return None
    too_large = any((np.abs(values[np.isfinite(values)]) > LARGEST).any() for values in (boxes, areas))
    return (boxes, areas) if flags_fit and not too_large else None


def _fits(value, types):
    """Whether a value of a field has one of its types, and can be meant."""
    if type(value) not in types:
        return False
    if types is FLAGS:
        return value in FLAG_VALUES
    if types is IDS:
        return not _is_fraction(value)
    return types is not NUMBERS or not LARGEST < abs(value) < np.inf  # infinity has an error of its own


def _is_fraction(value):
    return type(value) is float and not value.is_integer()


def first_duplicate(values):
    """The first of some values that occurs twice."""
    seen = set()
    return next(value for value in values if value in seen or seen.add(value))


def short(row):
    """An entry of a file for a message, with long values cut."""
    if not isinstance(row, dict):
        return _cut(row, 200)
    return _cut('{' + ', '.join(f'{key!r}: {_cut(repr(value), 60)}' for key, value in row.items()) + '}', 300)


def _cut(text, length):
    text = str(text)
    return text if len(text) <= length else text[: length - 3] + '...'

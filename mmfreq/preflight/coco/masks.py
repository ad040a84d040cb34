"""The masks of a COCO file: polygons and run lengths that mmdet and pycocotools can read.

A valid `segmentation` is a list of polygons, each a flat list x1, y1, x2, y2, ... of at least three points in pixels, or a dict of
run lengths, `counts` as a list or as COCO's text, and `size` (height, width). pycocotools does not check: NaN in a polygon, or run
lengths that do not add up to the image, make it hang or read other memory.
"""

from array import array
from dataclasses import dataclass

import numpy as np

from mmfreq.errors import DataError
from mmfreq.preflight.coco.annotations import NUMBERS

STATUS = MASK, NO_MASK, BAD_MASK = range(3)
MAX_TEXTS = 20_000  # run lengths as text that are decoded, evenly spaced; each takes 20 us
LARGEST = 1e9  # coordinate in pixels
POLYGONS = 'Write a list of polygons, each a flat list of at least three points: [[x1, y1, x2, y2, x3, y3, ...], ...].'
RUNS = 'Write the run lengths of the whole image again, for example with pycocotools.mask.encode.'


@dataclass
class Masks:
    """The masks of M annotations.

    Attributes:
        status: `MASK`, `NO_MASK`, or `BAD_MASK`, with which mmdet ignores the annotation in training, (M,).
        unscored: whether pycocotools fails with the mask, (M,) bool.
        extents: x1, y1, x2, y2 around the mask that mmdet uses; NaN where there is none, (M, 4).
    """

    status: np.ndarray
    unscored: np.ndarray
    extents: np.ndarray


def read_masks(annotations):
    """The `Masks` of `Annotations`.

    Raises:
        DataError: a mask with which loading it fails: one flat list, points as pairs, text, NaN, or run lengths that do not fit the
            image. The message names the annotation and counts the others.
    """
    count = len(annotations)
    status, unscored = np.full(count, MASK, np.int8), np.zeros(count, bool)
    polygons, owners, runs, faults = [], [], [], []
    for index, row in enumerate(annotations.rows):
        mask = row.get('segmentation')
        if type(mask) is list and len(mask) == 1 and _is_polygon(part := mask[0]):  # almost all
            polygons.append(part)
            owners.append(index)
        elif type(mask) is list and mask:
            valid = [part for part in mask if _is_polygon(part)]
            if len(valid) < len(mask):
                if fault := _part_fault(mask):
                    faults.append((index, fault))
                unscored[index] = not _is_scored(mask, valid)
            if not valid:
                status[index] = BAD_MASK
            polygons += valid
            owners += [index] * len(valid)
        elif not mask:
            status[index], unscored[index] = NO_MASK, True
        elif type(mask) is not dict:
            faults.append((index, f'is a {type(mask).__name__}. {POLYGONS}'))
        elif isinstance(mask.get('counts'), (list, str)) and mask.get('size') is not None:
            runs.append(index)
        else:
            status[index], unscored[index] = BAD_MASK, True
    points = _points(polygons)
    if points is None:
        faults += [(index, fault) for index, part in zip(owners, polygons) if (fault := _number_fault(part))]
    run_faults, decoded = _run_faults(annotations, runs)
    faults += run_faults
    if faults:
        index, fault = min(faults)
        more = f' ({len(faults)} masks of {count} are invalid.)' if len(faults) > 1 else ''
        row = annotations.rows[index]
        raise DataError(
            f'{annotations.where}: `segmentation` of annotations[{index}] (id {row["id"]!r}, image {row["image_id"]!r}) '
            f'{fault}{more}'
        )
    extents = _extents(points, polygons, np.array(owners, int), count)
    extents[decoded] = _run_extents(annotations, decoded)
    return Masks(status, unscored, extents)


def _is_polygon(part):
    return type(part) is list and len(part) >= 6 and len(part) % 2 == 0


def _points(polygons):
    """The points of all polygons, (N, 2); None if one of their coordinates is not a finite number."""
    values = array('f')  # unlike NumPy, it refuses text
    try:
        for polygon in polygons:
            values.fromlist(polygon)
    except (TypeError, OverflowError):
        return None
    points = np.frombuffer(values, np.float32)
    return points.reshape(-1, 2) if (np.abs(points) < LARGEST).all() else None


def _number_fault(part):
    """What is wrong with the coordinates of a polygon; '' if nothing is."""
    if set(map(type, part)) <= NUMBERS:
        return '' if all(abs(value) < LARGEST for value in part) else 'has NaN or infinite coordinates. Fix or remove it.'
    pairs = type(part[0]) is list
    return f'{"has points in lists of their own" if pairs else "has coordinates that are not numbers"}. {POLYGONS}'


def _part_fault(mask):
    """What is wrong with a list so that reading it fails; '' if nothing is, as mmdet skips parts that are too short."""
    for part in mask:
        if type(part) in NUMBERS:
            return f'is one flat list of numbers. {POLYGONS}'
        if type(part) not in (list, dict):
            return f'has a part that is a {type(part).__name__}. {POLYGONS}'
        if type(part) is list and part and (fault := _number_fault(part)):
            return fault
    return ''


def _is_scored(mask, valid):
    """Whether pycocotools reads a list of polygons: it decides by the first part what all of them are."""
    return bool(valid) and type(mask[0]) is list and len(mask[0]) > 4


def _run_faults(annotations, indices):
    """[(index, fault)] of masks as run lengths, and the indices of those that were decoded."""
    faults, valid = [], []
    texts = [index for index in indices if isinstance(annotations.rows[index]['segmentation']['counts'], str)]
    decoded = set(texts[:: -(-len(texts) // MAX_TEXTS) or 1])
    for index in indices:
        mask = annotations.rows[index]['segmentation']
        counts, size = mask['counts'], mask['size']
        if not annotations.listed[index]:
            continue
        width, height = annotations.sizes[index]
        if size != [height, width]:
            swapped = ' They are swapped, here or in `images`: `size` is (height, width).' if size == [width, height] else ''
            faults.append((index, f'has size {size}, but its image is {height:g} x {width:g} (H x W).{swapped} {RUNS}'))
        elif isinstance(counts, list) or index in decoded:
            pixels = _pixels(counts)
            if pixels != height * width:
                found = 'are invalid' if pixels is None else f'add up to {pixels:g} pixels'
                faults.append((index, f'has run lengths that {found}, but its image has {height * width:g} pixels. {RUNS}'))
            else:
                valid.append(index)
    return faults, valid


def _run_extents(annotations, indices):
    """The box around each mask of run lengths, whose pixels were counted, (N, 4)."""
    from pycocotools import mask as coco_masks

    if not indices:
        return np.empty((0, 4))
    runs = [annotations.rows[index]['segmentation'] for index in indices]
    runs = [run if isinstance(run['counts'], str) else coco_masks.frPyObjects(run, *run['size']) for run in runs]
    boxes = coco_masks.toBbox(runs)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _pixels(counts):
    """The number of pixels that run lengths cover, from a list or COCO's text; None if they are not valid."""
    if isinstance(counts, list):
        valid = set(map(type, counts)) <= NUMBERS and all(count >= 0 and count == int(count) for count in counts)
        return sum(counts) if valid else None
    # each letter has 5 bits, and one that says whether another follows; from the fourth length on, the last but one is added
    lengths, at = [], 0
    letters = [ord(letter) - 48 for letter in counts]
    if not letters or min(letters) < 0 or max(letters) > 63 or letters[-1] & 32:
        return None
    while at < len(letters):
        value, shift = 0, 0
        while True:
            letter = letters[at]
            value |= (letter & 31) << shift
            at, shift = at + 1, shift + 5
            if not letter & 32:
                break
        if letter & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return sum(lengths) if min(lengths) >= 0 else None


def _extents(points, polygons, owners, count):
    """The box around the polygons of each annotation, (M, 4)."""
    extents = np.full((count, 4), np.nan)
    if not polygons:
        return extents
    lengths = np.fromiter(map(len, polygons), int) // 2
    starts = np.concatenate(([0], lengths.cumsum()[:-1]))
    first = np.concatenate(([True], owners[1:] != owners[:-1]))  # polygon of its annotation
    at, rows = starts[first], owners[first]
    extents[rows, :2], extents[rows, 2:] = np.minimum.reduceat(points, at), np.maximum.reduceat(points, at)
    return extents

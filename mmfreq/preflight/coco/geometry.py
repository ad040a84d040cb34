"""Boxes and masks that contradict the size of their image or each other, counted, with the likely reason.

Labels in another convention (corners instead of width and height, fractions, swapped axes, another image size) train without an
error, to an AP of 0. In files of any size some boxes reach over the border; a file where most do is refused.
"""

from dataclasses import dataclass

import numpy as np

from mmfreq.errors import DataError

SLACK = 1.5  # pixels that a box may reach over its image, as annotation tools round
MOSTLY = 0.95  # share of the annotations that must fit another convention
REFUSED = 0.5  # share of the annotations that contradict their image, from which a file is refused
WARNED = 0.02  # from which it is a warning; below, a note


@dataclass(frozen=True)
class Contradiction:
    """What some annotations contradict.

    Attributes:
        rows: (M,) bool.
        of: (M,) bool, the annotations that were compared.
        text: what they do, for 'N of M boxes TEXT'.
        reason: the likely reason and what to do, as sentences.
    """

    rows: np.ndarray
    of: np.ndarray
    text: str
    reason: str


def check_geometry(annotations, masks, report):
    """Compare boxes and masks of `Annotations` with their images and with each other.

    Args:
        masks: `Masks`, or None if the file's masks are not used.

    Raises:
        DataError: half of the boxes or masks contradict their image, or fit another convention only.
    """
    found = [_boxes(annotations, masks)]
    if masks is not None:
        found += [_masks_outside(annotations, masks), _masks_beside_boxes(annotations, masks)]
    for contradiction in found:
        count, total = int(contradiction.rows.sum()), int(contradiction.of.sum())
        if not count:
            continue
        message = f'{annotations.where}: {count} of {total} {contradiction.text}, such as {annotations.first(contradiction.rows)}'
        message += f'. {contradiction.reason}' if contradiction.reason else '.'
        if count >= REFUSED * total:
            raise DataError(message)
        (report.warnings if contradiction.reason or count > WARNED * total else report.notes).append(message)


def _boxes(annotations, masks):
    """Boxes that reach over their image or, if all are below one pixel, are fractions."""
    boxes, sizes = annotations.boxes, annotations.sizes
    usable = annotations.listed & np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
    text = 'boxes reach beyond their image'
    if usable.any() and (boxes[usable] <= 1 + 1e-6).all():
        reason = 'They are fractions of the image: multiply x and width by its width, y and height by its height.'
        return Contradiction(usable, usable, 'boxes are smaller than one pixel', reason)
    beyond = usable & ((boxes[:, :2] < -SLACK) | (boxes[:, :2] + boxes[:, 2:] > sizes + SLACK)).any(1)
    reason = _reason(boxes, sizes, usable, beyond, masks)
    if reason and not beyond.any():  # corners of objects in the upper left quarter
        return Contradiction(usable, usable, 'boxes contradict their masks', reason)
    return Contradiction(beyond, usable, text, reason)


def _reason(boxes, sizes, usable, beyond, masks):
    """The convention that explains boxes which reach beyond their images, as sentences; '' if none does."""
    corners = (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= sizes + SLACK).all(1)
    if _mostly(corners, usable) and (_corners_fit_masks(boxes, usable, masks) or _share(beyond, usable) > 0.2):
        return 'They are corners, x1 y1 x2 y2, where COCO has x, y, width, height: subtract x from the third and y from the fourth.'
    if not beyond.any():
        return ''
    ends = boxes[:, :2] + boxes[:, 2:]
    if _mostly((ends <= sizes[:, ::-1] + SLACK).all(1), usable) and _share(beyond, usable) > WARNED:
        return (
            'They fit if width and height of the images are swapped: check `width` and `height` of `images`, and the order of x, y.'
        )
    if _share(beyond, usable) > WARNED:
        (width, height), (right, bottom) = sizes[beyond][0], ends[usable & (sizes == sizes[beyond][0]).all(1)].max(0)
        return (
            f'In images of {width:g} x {height:g} boxes reach to {right:g} x {bottom:g} (width x height): check whether they were '
            'drawn on images of another size, and are x, y, width, height in pixels.'
        )
    return ''


def _corners_fit_masks(boxes, usable, masks):
    """Whether the masks reach to the third and fourth number of their boxes, not by that much to the right and down."""
    if masks is None:
        return False
    drawn = usable & ~np.isnan(masks.extents[:, 0])
    differs = np.abs(boxes[:, :2]).min(1) > 2 * SLACK  # elsewhere both conventions give almost the same box
    fits = (np.abs(masks.extents[:, 2:] - boxes[:, 2:]) <= 2 * SLACK).all(1)
    return (drawn & differs).any() and _mostly(fits, drawn & differs)


def _masks_outside(annotations, masks):
    """Polygons without a pixel in their image."""
    drawn = annotations.listed & ~np.isnan(masks.extents[:, 0])
    low, high, sizes = masks.extents[:, :2], masks.extents[:, 2:], annotations.sizes
    outside = drawn & ((high <= 0) | (low >= sizes) | (high <= low)).any(1)
    reason = ''
    if _share(outside, drawn) >= REFUSED:
        reason = 'Polygons are x1, y1, x2, y2, ... in pixels of their image.'
    if drawn.any() and (masks.extents[drawn] <= 1 + 1e-6).all():
        outside = drawn
        reason = 'They are fractions of the image: multiply x by its width and y by its height.'
    return Contradiction(outside, drawn, 'polygons cover no pixel of their image', reason)


def _masks_beside_boxes(annotations, masks):
    """Polygons that reach beyond their own box by more than a tenth of its side."""
    boxes = annotations.boxes
    drawn = annotations.listed & ~np.isnan(masks.extents[:, 0]) & np.isfinite(boxes).all(1)
    slack = 2 * SLACK + 0.1 * np.abs(boxes[:, 2:])
    ends = boxes[:, :2] + boxes[:, 2:]
    beside = drawn & ((masks.extents[:, :2] < boxes[:, :2] - slack) | (masks.extents[:, 2:] > ends + slack)).any(1)
    turned = masks.extents[:, [1, 0, 3, 2]]
    fits = (np.abs(turned - np.concatenate([boxes[:, :2], ends], 1)) <= np.concatenate([slack, slack], 1)).all(1)
    reason = 'They fit with x and y swapped: polygons are x1, y1, x2, y2, ...' if _share(beside & fits, beside) > MOSTLY else ''
    if not reason and _share(beside, drawn) >= REFUSED:
        reason = (
            'Boxes are x, y, width, height and polygons x1, y1, x2, y2, ..., both in pixels: one of them is in another convention.'
        )
    return Contradiction(beside, drawn, 'polygons reach beyond their boxes', reason)


def _share(rows, of):
    """The share of `rows` in `of`, 0 if that is empty."""
    return float((rows & of).sum() / max(of.sum(), 1))


def _mostly(rows, of):
    return of.any() and _share(rows, of) >= MOSTLY

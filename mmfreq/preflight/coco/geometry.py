"""Boxes and masks that contradict the size of their image or each other, counted, with the likely reason.

Labels in another convention (corners instead of width and height, fractions, swapped axes, another image size) train without an
error, to an AP of 0. A file is refused if another convention explains it, or if most of many boxes are far outside. Boxes that are
cut by the border and drawn beyond it are usual: they are only counted.
"""

from dataclasses import dataclass

import numpy as np

from mmfreq.errors import DataError

SLACK = 3.0  # pixels that a box or mask may reach too far, as annotation tools round
SIDE_SLACK = 0.02  # share of the image's side that it may, if that is more
FAR = 0.2  # share of the image's side, beyond which a box is no object that the border cuts
MOSTLY = 0.95  # share of the annotations that must fit another convention
HALF, MANY = 0.5, 10  # share and number of annotations that contradict their image without a reason, from which a file is refused
WARNED = 0.02  # share from which it is a warning; below, a note


@dataclass(frozen=True)
class Contradiction:
    """What some annotations contradict.

    Attributes:
        rows: (M,) bool.
        of: (M,) bool, the annotations that were compared.
        text: what they do, for 'N of M TEXT'.
        reason: the likely reason and what to do, as sentences.
        refused: whether the file cannot be meant so.
    """

    rows: np.ndarray
    of: np.ndarray
    text: str
    reason: str = ''
    refused: bool = False


def check_geometry(annotations, masks, report):
    """Compare boxes and masks of `Annotations` with their images and with each other.

    Args:
        masks: `Masks`, or None if the file's masks are not used.

    Raises:
        DataError: another convention explains the file, or most of its boxes or masks are far outside of their images.
    """
    found = [_boxes(annotations, masks), _areas(annotations)]
    if masks is not None:
        found += [_masks_outside(annotations, masks), _masks_beside_boxes(annotations, masks)]
    for contradiction in found:
        count, total = int(contradiction.rows.sum()), int(contradiction.of.sum())
        if not count:
            continue
        reason = f' {contradiction.reason}' if contradiction.reason else ''
        message = f'{annotations.where}: {count} of {total} {contradiction.text}.{reason}'
        message += f' The first is {annotations.first(contradiction.rows)}.'
        if contradiction.refused:
            raise DataError(message)
        (report.warnings if contradiction.reason or count > WARNED * total else report.notes).append(message)


def _boxes(annotations, masks):
    """Boxes in another convention, or that reach beyond their image."""
    boxes, sizes = annotations.boxes, annotations.sizes
    usable = annotations.listed & np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
    fractions = usable & (boxes <= 1 + 1e-6).all(1)
    if _mostly(fractions, usable):
        reason = 'They are fractions of the image: multiply x and width by its width, y and height by its height.'
        return Contradiction(fractions, usable, 'boxes are smaller than one pixel', reason, refused=True)
    overshoot = np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - sizes)
    beyond = usable & (overshoot > np.maximum(SLACK, SIDE_SLACK * sizes)).any(1)
    far = usable & (overshoot > FAR * sizes).any(1)
    if _are_corners(annotations, masks, usable, far):
        text = 'boxes reach beyond their image' if beyond.any() else 'boxes contradict their masks or areas'
        reason = (
            'They are corners, x1 y1 x2 y2, where COCO has x, y, width, height: subtract x from the third and y from the fourth.'
        )
        return Contradiction(beyond if beyond.any() else usable, usable, text, reason, refused=True)
    many = far.sum() >= MANY and _share(far, usable) >= HALF
    return Contradiction(beyond, usable, 'boxes reach beyond their image', _reason(boxes, sizes, usable, beyond, far), refused=many)


def _are_corners(annotations, masks, usable, far):
    """Whether boxes are x1, y1, x2, y2: these fit their images, and masks, areas or boxes far outside show that they are meant."""
    boxes, sizes = annotations.boxes, annotations.sizes
    slack = np.maximum(SLACK, SIDE_SLACK * sizes)
    fits = (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= sizes + slack).all(1) & (boxes[:, :2] >= -slack).all(1)
    if not _mostly(fits, usable):
        return False
    differs = usable & (boxes[:, :2] > 2 * SLACK).any(1)  # near the upper left corner both conventions give almost the same box
    drawn = differs & ~np.isnan(masks.extents[:, 0]) if masks is not None else np.zeros_like(usable)
    if drawn.any():
        right, wrong = (np.abs(masks.extents[:, 2:] - ends) <= SLACK for ends in (boxes[:, 2:], boxes[:, :2] + boxes[:, 2:]))
        return _mostly(right.all(1), drawn) and not _share(wrong.all(1), drawn) >= HALF
    sides = boxes[:, 2:] - boxes[:, :2]
    of_corners, of_boxes = (np.isclose(annotations.areas, area, rtol=0.02) for area in (sides.prod(1), boxes[:, 2:].prod(1)))
    if _mostly(of_corners, differs) and not _share(of_boxes, differs) >= HALF:
        return True
    return far.sum() >= MANY and _share(far, usable) > 0.2 and not _share(of_boxes, differs) >= HALF


def _reason(boxes, sizes, usable, beyond, far):
    """What probably explains boxes that reach beyond their images, as sentences; '' if they are few."""
    if _share(beyond, usable) <= WARNED or not far.any():
        return ''
    ends = boxes[:, :2] + boxes[:, 2:]
    exchanged = (ends <= sizes[:, ::-1] * (1 + SIDE_SLACK)).all(1) & (boxes[:, :2] >= -SLACK).all(1)
    if _mostly(exchanged, usable):
        return 'They fit with x and y exchanged: check `width` and `height` of `images`, and that boxes are x, y, width, height.'
    width, height = sizes[far][0]
    right, bottom = ends[usable & (sizes == (width, height)).all(1)].max(0)
    return (
        f'In images of {width:g} x {height:g}, boxes reach to {right:g} x {bottom:g} (width x height). Check that they are x, y of '
        'the upper left corner, width, height, in pixels of these images.'
    )


def _areas(annotations):
    """Areas larger than their boxes, in most of a file: boxes were drawn on smaller images, or areas on larger ones."""
    boxes, sides = annotations.boxes, annotations.boxes[:, 2:].prod(1)
    usable = annotations.listed & np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1) & np.isfinite(annotations.areas)
    larger = usable & (annotations.areas > 1.1 * sides + SLACK**2)
    if larger.sum() < MANY or _share(larger, usable) < HALF:
        larger = np.zeros_like(larger)
    reason = 'An object is not larger than its box: check that boxes are x, y, width, height in pixels of their images.'
    return Contradiction(larger, usable, 'annotations have an `area` larger than their box', reason)


def _masks_outside(annotations, masks):
    """Masks without a pixel in their image, or that reach beyond it by more than its size."""
    drawn = annotations.listed & ~np.isnan(masks.extents[:, 0])
    fractions = drawn & (masks.extents > 0).any(1) & (masks.extents <= 1 + 1e-6).all(1)
    if _mostly(fractions, drawn):
        reason = 'They are fractions of the image: multiply x by its width and y by its height.'
        return Contradiction(fractions, drawn, 'masks cover no pixel of their image', reason, refused=True)
    low, high, sizes = masks.extents[:, :2], masks.extents[:, 2:], annotations.sizes
    outside = drawn & ((high <= 0) | (low >= sizes) | (high <= low) | (low < -sizes) | (high > 2 * sizes)).any(1)
    most = _share(outside, drawn) >= HALF
    reason = 'Polygons are x1, y1, x2, y2, ... in pixels of their image, and run lengths go down its columns.' if most else ''
    refused = most and (outside.sum() >= MANY or (outside == drawn).all())
    return Contradiction(outside, drawn, 'masks cover no pixel of their image, or reach far beyond it', reason, refused)


def _masks_beside_boxes(annotations, masks):
    """Masks that reach beyond their own box by more than a tenth of its side, inside of the image."""
    boxes, sizes = annotations.boxes, annotations.sizes
    drawn = annotations.listed & ~np.isnan(masks.extents[:, 0]) & np.isfinite(boxes).all(1)
    low, high = np.maximum(masks.extents[:, :2], 0), np.minimum(masks.extents[:, 2:], sizes)
    drawn &= (high > low).all(1)  # the others are counted by `_masks_outside`
    slack = SLACK + 0.1 * np.abs(boxes[:, 2:])
    starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    beside = drawn & ((low < starts - slack) | (high > ends + slack)).any(1)
    turned = masks.extents[:, [1, 0, 3, 2]]
    fits = (np.abs(turned - np.concatenate([starts, ends], 1)) <= np.concatenate([slack, slack], 1)).all(1)
    reason = ''
    if _share(beside & fits, beside) > MOSTLY:
        reason = 'They fit with x and y exchanged: polygons are x1, y1, x2, y2, ...'
    elif _share(beside, drawn) >= HALF:
        reason = (
            'One of them is in another convention, or of another object: boxes are x, y, width, height, and polygons x1, y1, x2, '
            'y2, ..., in pixels; run lengths go down the columns of the image and begin with the background.'
        )
    refused = reason.startswith('They fit') and _share(beside, drawn) >= HALF
    return Contradiction(beside, drawn, 'masks reach beyond their boxes', reason, refused)


def _share(rows, of):
    """The share of `rows` in `of`, 0 if that is empty."""
    return float((rows & of).sum() / max(of.sum(), 1))


def _mostly(rows, of):
    return of.any() and _share(rows, of) >= MOSTLY

"""Is a sample what training takes it for? Looked at where it is loaded, before any transform changes it.

Beside the arrays only the first and last bytes of the files are read. What cannot be told from these: damage amid a JPEG, which
decoders pass over.
"""

import logging
from os.path import isfile

import numpy as np
from mmengine.logging import print_log

from mmfreq.compat.file_kind import shown
from mmfreq.datasets.picture_header import decoding_fault, extreme, orientation, read_header
from mmfreq.engine.errors import InputError

IDS = 256  # that a label map of 8 bits can hold
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
UPRIGHT_LOADERS = ('unchanged', 'color_ignore_orientation', 'grayscale_ignore_orientation')
IGNORE_ORIENTATION = "LoadImageFromFile(color_type='color_ignore_orientation')"
ONE_ROW = 'one row or column, which mmseg cannot read; leave it out, or pad it and its image.'
_warned = set()  # what this process has said


def check_image(sample, transform):
    """Look at the image that `transform` has just put into a sample dict, and at its file.

    Raises:
        InputError: truncated; not of 8 bits; NaN or infinite; of another size than the annotation file says.
    """
    image, path = sample.get('img'), sample.get('img_path')
    if not isinstance(image, np.ndarray) or not isinstance(path, str) or not isfile(path):
        return
    header = read_header(path)
    if not header.ended and (fault := decoding_fault(path)):
        raise InputError(f'{shown(path)} is truncated ({fault}): its rest would be black or grey. Copy or download it again.')
    if image.dtype not in (np.uint8, np.float32):
        raise InputError(
            f'{shown(path)} is read as {image.dtype}; expected 8 bits. Read it with LoadImageFromFile(color_type="color"), '
            'which keeps the upper 8 bits, convert the files, or, where the mean and std of the model are of this range, add '
            'to_float32=True.'
        )
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise InputError(f'{shown(path)} has NaN or infinite pixels; mend or leave out the file.')
    if header.bits == 16 and image.dtype == np.uint8:
        _warn_once(
            '16 bits',
            f'{shown(path)} has 16 bits a channel; of each the upper 8 are read. If only 10 or 12 are in use, it is dark.',
        )
    turned = orientation(path) if header.exif else 1
    _check_stated_size(sample, path, turned)
    with_labels = sample.get('seg_map_path') or sample.get('instances')
    if turned != 1 and with_labels and getattr(transform, 'color_type', 'color') not in UPRIGHT_LOADERS:
        _warn_once(
            'EXIF',
            f'{shown(path)} has the EXIF orientation {turned} and is turned by it when read; its labels are not. Unless they were '
            f'drawn on the turned picture, read pictures with {IGNORE_ORIENTATION}.',
        )


def check_label_map(sample):
    """Look at the label map that was just loaded into a sample dict, if it has one, and at its file.

    Raises:
        InputError: several channels; no integers; more than 256 classes; saved with losses; of another size than the image.
    """
    labels, path = sample.get('gt_seg_map'), sample.get('seg_map_path')
    if not isinstance(labels, np.ndarray) or not path:
        return
    name = shown(path)
    if labels.ndim > 2:
        raise InputError(
            f'the label map {name} is read as {labels.shape[-1]} channels {labels.shape}; expected one channel of class ids '
            '(H, W). Convert the colours to ids, with the palette that they were painted with, and save a PNG of one channel.'
        )
    if labels.ndim < 2:
        raise InputError(
            f'the label map {name} has one row or column, which mmseg cannot read; leave it out, or pad it and its image.'
        )
    if labels.dtype.kind not in 'uib':
        raise InputError(f'the label map {name} is read as {labels.dtype}; expected integers. Save class ids as a PNG of 8 bits.')
    if isfile(path):
        _check_label_file(path, name, labels.dtype)
    size = tuple(sample.get('ori_shape') or labels.shape)[:2]
    if labels.shape != size:
        image = sample.get('img_path')
        hint = ''
        if labels.shape == size[::-1] and image and isfile(image) and read_header(image).exif and orientation(image) in TURNED:
            hint = (
                f' The image is turned by its EXIF orientation, and the label map is not: read pictures with {IGNORE_ORIENTATION}.'
            )
        raise InputError(
            f'the label map {name} has the size {labels.shape} and its image {shown(image)} {size} (H, W); they must be '
            f'equal.{hint or " Are they a pair?"}'
        )


def _check_label_file(path, name, dtype):
    header = read_header(path)
    if header.kind == 'jpeg':
        raise InputError(
            f'the label map {name} is a JPEG, which changes values at edges; expected a PNG. Make it anew from its source.'
        )
    if dtype == np.uint8 and (header.bits == 16 or header.kind == 'tiff'):
        mode, highest = extreme(path)
        if mode == 'F' or not 0 <= highest < IDS:
            held = 'real numbers' if mode == 'F' else f'values up to {highest}'
            raise InputError(
                f'the label map {name} holds {held} and is read as 8 bits, that is modulo {IDS}; expected ids of 0..{IDS - 1}.'
            )


def _check_stated_size(sample, path, turned):
    """Against `height` and `width`, which come from the annotation file of a detection set."""
    stated = sample.get('height'), sample.get('width')
    size = tuple(sample.get('ori_shape') or ())[:2]
    if None in stated or not size or stated == size:
        return
    hint = ' Is the annotation file of these pictures?'
    if stated == size[::-1] and turned in TURNED:
        hint = f' Its EXIF orientation turns it when it is read, and the boxes stay: read pictures with {IGNORE_ORIENTATION}.'
    raise InputError(f'{shown(path)} has the size {size} and the annotation file says {stated} (H, W).{hint}')


def _warn_once(kind, message):
    if kind in _warned:
        return
    _warned.add(kind)
    print_log(
        f'{message} (Said once in a process for {kind}; other files may be like it.)', logger='current', level=logging.WARNING
    )

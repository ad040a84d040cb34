"""Is a sample what training takes it for? Looked at where it is loaded, before any transform changes it.

Beside the arrays only the first and last bytes of the files are read. What cannot be told from these: damage amid a JPEG, which
decoders pass over.
"""

import logging
import traceback
from os.path import basename, isfile

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper

from mmfreq.compat.file_kind import file_kind, printable_path
from mmfreq.datasets.image_header import decoding_fault, extreme, orientation, read_header, size_of
from mmfreq.errors import InputError

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
        raise InputError(
            f'{printable_path(path)} is truncated ({fault}): its rest would be black or grey. Copy or download it again.'
        )
    if image.dtype not in (np.uint8, np.float32):
        raise InputError(
            f'{printable_path(path)} is read as {image.dtype}; expected 8 bits. Read it with '
            'LoadImageFromFile(color_type="color"), which keeps the upper 8 bits, convert the files, or, '
            'where the mean and std of the model are of this range, add '
            'to_float32=True.'
        )
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise InputError(f'{printable_path(path)} has NaN or infinite pixels; mend or leave out the file.')
    if header.bits == 16 and image.dtype == np.uint8:
        _warn_once(
            '16 bits',
            f'{printable_path(path)} has 16 bits a channel; of each the upper 8 are read. If only 10 or 12 are in use, it is dark.',
        )
    turned = orientation(path) if header.exif else 1
    _check_stated_size(sample, path, turned)
    with_labels = sample.get('seg_map_path') or sample.get('instances')
    if turned != 1 and with_labels and getattr(transform, 'color_type', 'color') not in UPRIGHT_LOADERS:
        _warn_once(
            'EXIF',
            f'{printable_path(path)} has the EXIF orientation {turned} and is turned by it when read; its labels are '
            f'not. Unless they were drawn on the turned picture, read pictures with {IGNORE_ORIENTATION}.',
        )


def check_label_map(sample):
    """Look at the label map that was just loaded into a sample dict, if it has one, and at its file.

    Raises:
        InputError: several channels; no integers; more than 256 classes; saved with losses; of another size than the image.
    """
    labels, path = sample.get('gt_seg_map'), sample.get('seg_map_path')
    if not isinstance(labels, np.ndarray) or not path:
        return
    name = printable_path(path)
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
            f'the label map {name} has the size {labels.shape} and its image {printable_path(image)} {size} (H, W); they must be '
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
    raise InputError(f'{printable_path(path)} has the size {size} and the annotation file says {stated} (H, W).{hint}')


def _warn_once(kind, message):
    if kind in _warned:
        return
    _warned.add(kind)
    print_log(
        f'{message} (Said once in a process for {kind}; other files may be like it.)', logger='current', level=logging.WARNING
    )


# The pipelines of a run's data sets, so that whatever fails in one, also deep in a worker, names the file that it failed on.


class GuardedPipeline(Compose):
    """The transforms of another pipeline, the same list, with an eye on them.

    An error of a transform becomes an `InputError` that names it and the files; what a transform named `Load...` loads is looked at
    (see `sample_checks`); a sample that such a transform leaves out is told in the log, with its number in this process.
    """

    def __init__(self, pipeline, test_mode=False):
        self.transforms = pipeline.transforms
        self.test_mode = test_mode
        self.left_out = 0

    def __call__(self, data):
        files = {what: data.get(key) for what, key in (('image', 'img_path'), ('label map', 'seg_map_path'))}
        for transform in self.transforms:
            name = type(transform).__name__
            loads = name.startswith('Load')
            try:
                data = transform(data)
                if loads and isinstance(data, dict):
                    check_image(data, transform) if name.startswith('LoadImage') else check_label_map(data)
            except InputError:
                raise
            except Exception as error:
                raise InputError(_failure(name, files, error)) from error
            if data is None:
                self._tell_left_out(name, files, loads)
                return None
        return data

    def _tell_left_out(self, name, files, loads):
        if self.test_mode:
            raise InputError(f'{name} leaves out {_named(files)}, which is not possible in validation and testing.')
        if loads:  # others leave out at random, and mean to
            self.left_out += 1
            print_log(f'{name} left out {_named(files)}, sample {self.left_out} so.', logger='current', level=logging.WARNING)


def guard_samples(runner):
    """Put a `GuardedPipeline` into every data set of the loops that a runner has built.

    Workers that have started keep the pipelines that they have; mmengine's own IterBasedTrainLoop starts its workers earlier.
    """
    for loop in (getattr(runner, f'_{mode}_loop', None) for mode in ('train', 'val', 'test')):
        for dataset in leaves_of(getattr(getattr(loop, 'dataloader', None), 'dataset', None)):
            pipeline = getattr(dataset, 'pipeline', None)
            if isinstance(getattr(pipeline, 'transforms', None), list) and not isinstance(pipeline, GuardedPipeline):
                dataset.pipeline = GuardedPipeline(pipeline, getattr(dataset, 'test_mode', False))


def leaves_of(dataset):
    """Yield the data sets that read files, inside wrappers that repeat, join or mix them."""
    children = [*(getattr(dataset, 'datasets', None) or ()), getattr(dataset, 'dataset', None)]
    children = [child for child in children if child is not None]
    if not children and dataset is not None:
        yield dataset
    for child in children:
        yield from leaves_of(child)


def _named(files):
    return ', '.join(f'{what} {printable_path(path)}' for what, path in files.items() if path) or 'a sample that names no file'


def _failure(name, files, error):
    """Of a loading transform: the file that it reads, and what that is; of another one where in the code it failed."""
    told = ' '.join(str(error).split())
    reason = f'{type(error).__name__}: {told}' if told else type(error).__name__
    if not name.startswith('Load'):
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f'{name} failed on {_named(files)}: {reason} ({basename(place.filename)}, line {place.lineno}).'
    what = 'image' if name.startswith('LoadImage') or not files['label map'] else 'label map'
    path = files[what]
    if not isinstance(path, str):
        return f'{name} failed on {_named(files)}: {reason}.'
    kind = file_kind(path)
    if kind.endswith('picture') and what == 'label map' and 1 in size_of(path):
        return f'the {what} {printable_path(path)} has {ONE_ROW}'
    if kind.endswith('picture'):
        kind += ', damaged or of a form that the decoder does not take'
    told = f'the {what} {printable_path(path)} cannot be loaded: it is {kind}. ({name}: {reason})'
    return f'{told} Mend the file, or leave it out of the data set.'


# A hook that stops a run on images or labels that the model was not built for, naming the file.


def bare_model(model):
    """The model inside a distributed or test-time-augmentation wrapper."""
    while is_model_wrapper(model) or (hasattr(model, 'merge_preds') and hasattr(model, 'module')):
        model = model.module
    return model


def check_channels(image, expected, name):
    """Raise `InputError` unless a CHW picture has the expected number of channels (None: anything goes)."""
    if expected is not None and image.shape[-3] != expected:
        raise InputError(
            f'{name} has {image.shape[-3]} channels and the model takes in_channels={expected}. Read pictures with '
            "LoadImageFromFile(color_type='color') for 3 channels, or set in_channels of the backbone, and one mean and std "
            'for each channel in the data preprocessor.'
        )


def check_labels(labels, num_classes, ignore_index, name):
    """Raise `InputError` if a label map holds anything but 0..num_classes-1 and `ignore_index`.

    512x512 labels take 0.1 ms on a CPU core, and 0.7 ms where ignored pixels ask for a second look.
    """
    if labels.numel() == 0:
        return
    low, high = (int(value) for value in torch.aminmax(labels))
    if low >= 0 and high < num_classes:
        return
    wrong = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)
    if wrong.any():
        values = torch.unique(labels[wrong]).tolist()
        shown = ', '.join(map(str, values[:10])) + (', ...' if len(values) > 10 else '')
        raise InputError(
            f'{name} holds the labels {shown} in {int(wrong.sum())} pixels, and the model knows 0..{num_classes - 1} '
            f'(num_classes={num_classes}) and ignores {ignore_index}. Is num_classes of the heads wrong, or reduce_zero_label '
            '(True makes 0 ignored and moves every other label down by one; set it in the dataset and in LoadAnnotations)?'
        )


def check_boxes(boxes, name):
    """Raise `InputError` if boxes (M, 4) x1 y1 x2 y2 hold NaN or infinity; the number of those without an extent."""
    if not torch.isfinite(boxes).all():
        raise InputError(f'{name} has boxes that are NaN or infinite: {boxes[~torch.isfinite(boxes).all(1)][:3].tolist()}')
    return int((boxes[:, 2:] <= boxes[:, :2]).any(1).sum())


def _expected_channels(model):
    stated = getattr(getattr(model, 'backbone', None), 'in_channels', None)
    if isinstance(stated, int):
        return stated
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    return mean.numel() if torch.is_tensor(mean) and mean.numel() > 1 else None


def _flat(value):
    """A batch as one list: stacked tensors, lists, and the nested lists of test-time augmentation."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in (_flat(item) if isinstance(item, (list, tuple)) else [item])]
    return list(value) if torch.is_tensor(value) and value.ndim > 3 else [value]


def _name(samples, index, *keys):
    meta = getattr(samples[index], 'metainfo', {}) if index < len(samples) else {}
    return next((str(meta[key]) for key in keys if meta.get(key)), f'sample {index} of the batch (its file is not recorded)')

"""Checks of images, labels and boxes while a run loads them; every error names the file.

`check_image` and `check_label_map` look at what a loading transform has just read, and at the first and last bytes of its file. Not
found: damaged bytes in the middle of a JPEG, which decoders skip. `GuardedPipeline` calls them in every dataset of a run
(`guard_samples`). `check_channels`, `check_labels` and `check_boxes` compare a batch with the model (`InputGuardHook`).
"""

import logging
import traceback
from contextlib import contextmanager
from os.path import basename, isfile

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper

from mmfreq.compat.decoders import missing_decoder
from mmfreq.compat.file_type import describe_file, printable_path
from mmfreq.config.image_channels import takes_channels
from mmfreq.datasets.image_header import decoding_fault, image_size, max_value, orientation, read_header
from mmfreq.errors import InputError, UserError

IDS = 256  # class ids that a label map of 8 bits can hold
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
UPRIGHT_LOADERS = ('unchanged', 'color_ignore_orientation', 'grayscale_ignore_orientation')
IGNORE_ORIENTATION = "LoadImageFromFile(color_type='color_ignore_orientation')"
ONE_ROW = 'has one row or column, which mmseg cannot read. Remove it, or pad it and its image.'
_warned = set()  # topics that this process has warned of


def check_image(sample, transform):
    """Check the image that `transform` has just loaded into a sample dict, and its file.

    Raises:
        InputError: the image is truncated, is not of 8 bits, has NaN or infinite pixels, or another size than annotated.
    """
    image, path = sample.get('img'), sample.get('img_path')
    if not isinstance(image, np.ndarray) or not isinstance(path, str) or not isfile(path):
        return
    name = printable_path(path)
    header = read_header(path)
    if not header.complete and (fault := decoding_fault(path)):
        raise InputError(f'{name} is truncated ({fault}); the rest of the image would be black or gray. Copy or download it again.')
    if image.dtype not in (np.uint8, np.float32):
        raise InputError(
            f'Expected images of 8 bits, but {name} is read as {image.dtype}. Read it with '
            'LoadImageFromFile(color_type="color"), which keeps the upper 8 bits, or convert the file. If mean and std of the '
            'model are for this range of values, add to_float32=True.'
        )
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise InputError(f'Expected finite pixels, but {name} has NaN or infinite ones. Fix the file or remove it.')
    if header.bits == 16 and image.dtype == np.uint8:
        _warn_once(
            '16 bits',
            f'{name} has 16 bits per channel, of which only the upper 8 are kept: an image with values up to 4095 (12 bits) '
            "becomes almost black. To keep all bits, read it with LoadImageFromFile(color_type='unchanged', to_float32=True).",
        )
    turned = orientation(path) if header.exif else 1
    _check_annotated_size(sample, name, turned)
    has_labels = sample.get('seg_map_path') or sample.get('instances')
    if turned != 1 and has_labels and getattr(transform, 'color_type', 'color') not in UPRIGHT_LOADERS:
        _warn_once(
            'EXIF',
            f'{name} has the EXIF orientation {turned} and is rotated or mirrored when it is read, but its labels are not. '
            f'Unless they were drawn on the turned image, read images with {IGNORE_ORIENTATION}.',
        )


def _check_annotated_size(sample, name, turned):
    """Compare the size with `height` and `width`, which a detection dataset reads from the annotation file."""
    annotated = sample.get('height'), sample.get('width')
    size = tuple(sample.get('ori_shape') or ())[:2]
    if None in annotated or not size or annotated == size:
        return
    remedy = 'Check that the annotation file belongs to these images.'
    if annotated == size[::-1]:
        remedy = 'Width and height are swapped in the annotation file.'
        if turned in TURNED:
            remedy = f'Its EXIF orientation turns it when it is read, but not the boxes: read images with {IGNORE_ORIENTATION}.'
    raise InputError(f'{name} has the size {size}, but the annotation file has {annotated} (H, W). {remedy}')


def check_label_map(sample):
    """Check the label map that was just loaded into a sample dict, if it has one, and its file.

    Raises:
        InputError: the label map has several channels, values that are not integers or more than 256 classes, was saved with a
            lossy format, or is not of the size of its image.
    """
    labels, path = sample.get('gt_seg_map'), sample.get('seg_map_path')
    if not isinstance(labels, np.ndarray) or not path:
        return
    name = f'the label map {printable_path(path)}'
    if labels.ndim > 2:
        raise InputError(
            f'Expected one channel of class ids (H, W), but {name} is read as {labels.shape[-1]} channels {labels.shape}. '
            'Convert the colors to ids with their palette, and save a PNG with one channel.'
        )
    if labels.ndim < 2:
        raise InputError(f'T{name[1:]} {ONE_ROW}')
    if labels.dtype.kind not in 'uib':
        raise InputError(f'Expected integers, but {name} is read as {labels.dtype}. Save class ids as a PNG with 8 bits.')
    if isfile(path):
        _check_label_file(path, name, labels.dtype)
    size = tuple(sample.get('ori_shape') or labels.shape)[:2]
    if labels.shape != size:
        image = sample.get('img_path')
        remedy = 'Check that they are a pair.'
        if labels.shape == size[::-1] and image and isfile(image) and read_header(image).exif and orientation(image) in TURNED:
            remedy = f'The EXIF orientation turns the image, but not the label map: read images with {IGNORE_ORIENTATION}.'
        raise InputError(
            f'Expected label maps of the size of their images, but {name} has the size {labels.shape} and its image '
            f'{printable_path(image)} {size} (H, W). {remedy}'
        )


def _check_label_file(path, name, dtype):
    header = read_header(path)
    if header.format == 'jpeg':
        raise InputError(f'Expected a PNG, but {name} is a JPEG, which changes values at edges. Create it again from its source.')
    if dtype == np.uint8 and (header.bits == 16 or header.format == 'tiff'):
        mode, highest = max_value(path)
        if mode == 'F' or not 0 <= highest < IDS:
            found = 'real numbers' if mode == 'F' else f'values up to {highest}'
            raise InputError(
                f'Expected ids of 0..{IDS - 1}, but {name} has {found}, which are read as 8 bits, that is modulo {IDS}. Save class '
                'ids as a PNG with 8 bits.'
            )


def _warn_once(topic, message):
    if topic not in _warned:
        _warned.add(topic)
        message += f' (Logged once per process for {topic}; other files may be affected, too.)'
        print_log(message, logger='current', level=logging.WARNING)


class GuardedTransform:
    """A transform of a dataset that mixes images (MultiImageMixDataset of mmdet and mmseg), with errors that name the files."""

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, data):
        files = {'image': data.get('img_path'), 'label map': data.get('seg_map_path')}
        files |= {f'mixed image {number}': mixed.get('img_path') for number, mixed in enumerate(data.get('mix_results') or (), 1)}
        try:
            return self.transform(data)
        except InputError:
            raise
        except Exception as error:
            raise InputError(_failure(type(self.transform).__name__, files, error)) from error

    def __getattr__(self, name):  # `get_indexes`, by which the dataset recognizes transforms that mix
        if name == 'transform' or name.startswith('__'):  # not set yet, while unpickling
            raise AttributeError(name)
        return getattr(self.transform, name)


class GuardedPipeline(Compose):
    """The transforms of another pipeline, the same list, with checks and errors that name the file.

    An error of a transform becomes an `InputError` with the transform and the files, also in a worker process. What a transform
    named `Load...` loads is checked. A sample that it skips is logged, with the number of those in this process.

    Raises:
        UserError: a package that decodes images is not installed.
    """

    def __init__(self, pipeline, test_mode=False):
        self.transforms = pipeline.transforms
        for transform in self.transforms:
            if missing := missing_decoder(getattr(transform, 'imdecode_backend', None)):
                raise UserError(missing)
        self.test_mode = test_mode
        self.skipped = 0

    def __call__(self, data):
        files = {role: data.get(key) for role, key in (('image', 'img_path'), ('label map', 'seg_map_path'))}
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
                raise InputError(_annotation_failure(transform, data, files, error) or _failure(name, files, error)) from error
            if data is None:
                self._handle_skipped(name, files, loads)
                return None
        return data

    def _handle_skipped(self, name, files, loads):
        if self.test_mode:
            raise InputError(f'{name} skipped {_file_names(files)}; in validation and testing every sample must be read.')
        if loads:  # other transforms skip samples at random, and by design
            self.skipped += 1
            message = f'{name} skipped {_file_names(files)} (sample {self.skipped} that is skipped).'
            print_log(message, logger='current', level=logging.WARNING)


def guard_samples(runner):
    """Give every dataset in the loops of a built runner a `GuardedPipeline`.

    Worker processes that have started keep their pipelines; mmengine's IterBasedTrainLoop starts its workers earlier.
    """
    for loop in (getattr(runner, f'_{mode}_loop', None) for mode in ('train', 'val', 'test')):
        for dataset in dataset_tree(getattr(getattr(loop, 'dataloader', None), 'dataset', None)):
            _guard(dataset)


def _guard(dataset):
    pipeline = getattr(dataset, 'pipeline', None)
    if isinstance(pipeline, list):
        dataset.pipeline = [step if isinstance(step, GuardedTransform) else GuardedTransform(step) for step in pipeline]
    if isinstance(getattr(pipeline, 'transforms', None), list) and not isinstance(pipeline, GuardedPipeline):
        dataset.pipeline = GuardedPipeline(pipeline, getattr(dataset, 'test_mode', False))


@contextmanager
def guards_kept(dataset):
    """Guard the guarded pipelines of a dataset again if they are replaced in this context."""
    guarded = [each for each in dataset_tree(dataset) if isinstance(getattr(each, 'pipeline', None), GuardedPipeline)]
    yield
    for each in guarded:
        _guard(each)


def dataset_tree(dataset):
    """Yield a dataset object, and those inside of it if it repeats, concatenates or mixes others."""
    if dataset is None:
        return
    yield dataset
    for child in (*(getattr(dataset, 'datasets', None) or ()), getattr(dataset, 'dataset', None)):
        yield from dataset_tree(child)


def _file_names(files):
    names = ', '.join(f'{role} {printable_path(path)}' for role, path in files.items() if path)
    return names or 'a sample without a file name'


def _annotation_failure(transform, data, files, error):
    """The message for an error of mmdet's `LoadAnnotations` that one of the annotations causes alone; '' if none does."""
    if type(transform).__name__ != 'LoadAnnotations' or not isinstance(data, dict):
        return ''
    instances = data.get('instances') or ()
    for index, instance in enumerate(instances):
        try:
            transform({**data, 'instances': [dict(instance)]})
        except Exception:  # the same error, of this annotation
            text = str(instance)
            return (
                f'Annotation {index} of the {len(instances)} of {_file_names(files)} cannot be loaded: {type(error).__name__}: '
                f'{" ".join(str(error).split())}. It is {text if len(text) <= 200 else text[:200] + "..."}. Fix or remove it in '
                'the annotation file.'
            )
    return ''


def _failure(name, files, error):
    """The message for an error of a transform: of a loading one with what its file is, of another with the line that raised it."""
    text = ' '.join(str(error).split())
    reason = f'{type(error).__name__}: {text}' if text else type(error).__name__
    if not name.startswith('Load'):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f'{name} failed on {_file_names(files)}: {reason} ({basename(frame.filename)}, line {frame.lineno}).'
    role = 'image' if name.startswith('LoadImage') or not files['label map'] else 'label map'
    path = files[role]
    if not isinstance(path, str):
        return f'{name} failed on {_file_names(files)}: {reason}.'
    content = describe_file(path)
    if content.endswith('image'):
        if role == 'label map' and 1 in image_size(path):
            return f'The {role} {printable_path(path)} {ONE_ROW}'
        content += ', damaged or of a format that the decoder does not support'
    return (
        f'The {role} {printable_path(path)} cannot be loaded: it is {content}. ({name}: {reason}) '
        'Fix the file, or remove it from the dataset.'
    )


def check_channels(image, expected, name):
    """Raise `InputError` unless an image (C, H, W) has the expected number of channels (None: any)."""
    if expected is not None and image.shape[-3] != expected:
        raise InputError(
            f'{name} has {image.shape[-3]} channels, but the model takes in_channels={expected}. Read images with '
            "LoadImageFromFile(color_type='color') for 3 channels, or set in_channels of the backbone, and one mean and std per "
            'channel in the data preprocessor.'
        )


def check_labels(labels, num_classes, ignore_index, name):
    """Raise `InputError` if a label map has values other than 0..num_classes-1 and `ignore_index`.

    A map of 512x512 takes 0.1 ms on a CPU core, and 0.7 ms if it has ignored pixels.
    """
    if labels.numel() == 0:
        return
    low, high = (int(value) for value in torch.aminmax(labels))
    if low >= 0 and high < num_classes:
        return
    invalid = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)
    if invalid.any():
        values = torch.unique(labels[invalid]).tolist()
        shown = ', '.join(map(str, values[:10])) + (', ...' if len(values) > 10 else '')
        raise InputError(
            f'{name} has the labels {shown} in {int(invalid.sum())} pixels, but the model predicts 0..{num_classes - 1} '
            f'(num_classes={num_classes}) and ignores {ignore_index}. Check num_classes of the heads, and reduce_zero_label '
            '(True ignores label 0 and lowers every other by one; set it in the dataset and in LoadAnnotations).'
        )


def check_boxes(boxes, name):
    """Raise `InputError` if boxes (M, 4), x1 y1 x2 y2, have NaN or infinity; return the number of boxes without extent."""
    if not torch.isfinite(boxes).all():
        rows = boxes[~torch.isfinite(boxes).all(1)][:3].tolist()
        raise InputError(f'Expected finite boxes, but {name} has NaN or infinite ones: {rows}. Fix its annotations.')
    return int((boxes[:, 2:] <= boxes[:, :2]).any(1).sum())


def bare_model(model):
    """The model inside a distributed or test-time-augmentation wrapper."""
    while is_model_wrapper(model) or (hasattr(model, 'merge_preds') and hasattr(model, 'module')):
        model = model.module
    return model


def expected_channels(model):
    """Image channels that a model takes, by its backbone or the mean of its data preprocessor; None if neither states it."""
    model = getattr(model, 'student', model)  # of a mean teacher
    backbone = getattr(model, 'backbone', None)
    in_channels = getattr(backbone, 'in_channels', None)
    # without such an argument the attribute is something else: MobileNetV2 and EfficientNet count their last channels in it
    if isinstance(in_channels, int) and takes_channels(type(backbone)):
        return in_channels
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    return mean.numel() if torch.is_tensor(mean) and mean.numel() > 1 else None


def flatten_batch(value):
    """A batch as one list, from stacked tensors, lists, the nested lists of test-time augmentation, or mmdet's dict of branches."""
    if value is None:
        return []
    if isinstance(value, dict):
        return [leaf for branch in value.values() for leaf in flatten_batch(branch)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in (flatten_batch(item) if isinstance(item, (list, tuple)) else [item])]
    return list(value) if torch.is_tensor(value) and value.ndim > 3 else [value]


def sample_name(samples, index, *keys):
    """The file of a sample in a batch: the first of `keys` that its metainfo has."""
    meta = getattr(samples[index], 'metainfo', {}) if index < len(samples) else {}
    return next((str(meta[key]) for key in keys if meta.get(key)), f'sample {index} of the batch (its file is not recorded)')

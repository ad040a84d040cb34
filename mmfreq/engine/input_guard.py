"""A hook that stops a run on images or labels that the model was not built for, naming the file."""

import logging

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper

from mmfreq.engine.errors import InputError
from mmfreq.engine.sample_guard import guard_samples
from mmfreq.registry import HOOKS

__all__ = ['InputError', 'InputGuardHook', 'bare_model', 'check_boxes', 'check_channels', 'check_labels']


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


@HOOKS.register_module()
class InputGuardHook(Hook):
    """Check every picture's channels and every label map's values before each iteration, and how samples are loaded.

    It looks at what the loader gives, before the data preprocessor; `sample_guard` looks at each sample where it is loaded, and
    names the files of one that fails. Boxes must be finite, and those without an extent are told once. Labels of boxes and of
    classification are not looked at; nor are label maps where the model's head states no `num_classes`.
    """

    priority = 'VERY_HIGH'
    told_of_empty_boxes = False

    def before_run(self, runner):
        """Read from the model what it takes, once, and guard the data sets of the run."""
        guard_samples(runner)
        model = bare_model(runner.model)
        self.channels = _expected_channels(model)
        heads = getattr(model, 'decode_head', None)
        heads = list(heads) if isinstance(heads, torch.nn.ModuleList) else [heads]
        self.num_classes = getattr(heads[-1], 'num_classes', None)
        self.ignore_index = getattr(heads[-1], 'ignore_index', 255)
        if self.num_classes == 1 and getattr(heads[-1], 'out_channels', None) == 1:
            self.num_classes = 2  # one sigmoid map: background and the class

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train'):
        if not isinstance(data_batch, dict):
            return
        samples = _flat(data_batch.get('data_samples'))
        for index, image in enumerate(_flat(data_batch.get('inputs'))):
            if torch.is_tensor(image) and image.ndim >= 3:
                check_channels(image, self.channels, _name(samples, index, 'img_path'))
        if mode == 'train':
            self._look_at_boxes(samples)
        if self.num_classes is None:
            return
        for index, sample in enumerate(samples):
            labels = getattr(sample, 'gt_sem_seg', None)
            if labels is not None:
                check_labels(labels.data, self.num_classes, self.ignore_index, _name(samples, index, 'seg_map_path', 'img_path'))

    def _look_at_boxes(self, samples):
        for index, sample in enumerate(samples):
            boxes = getattr(getattr(sample, 'gt_instances', None), 'bboxes', None)
            boxes = getattr(boxes, 'tensor', boxes)  # mmdet has boxes of several kinds
            if not torch.is_tensor(boxes) or boxes.ndim != 2 or boxes.shape[1] != 4:
                continue
            name = _name(samples, index, 'img_path')
            empty = check_boxes(boxes, name)
            if empty and not self.told_of_empty_boxes:
                self.told_of_empty_boxes = True
                print_log(
                    f'{name} has {empty} boxes without an extent after its pipeline, which can make losses NaN. Said once; after '
                    "RandomCrop(recompute_bbox=True) add dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)) to the pipeline.",
                    logger='current',
                    level=logging.WARNING,
                )


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

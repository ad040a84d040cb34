"""A hook that stops a run on images or labels that the model was not built for, naming the file."""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmfreq.engine.errors import InputError
from mmfreq.engine.sample_guard import guard_samples
from mmfreq.registry import HOOKS

__all__ = ['InputError', 'InputGuardHook', 'bare_model', 'check_channels', 'check_labels']


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


@HOOKS.register_module()
class InputGuardHook(Hook):
    """Check every picture's channels and every label map's values before each iteration, and how samples are loaded.

    It looks at what the loader gives, before the data preprocessor; `sample_guard` looks at each sample where it is loaded, and
    names the files of one that fails. Detection boxes and classification labels are not looked
    at; nor are labels where the model's head states no `num_classes`.
    """

    priority = 'VERY_HIGH'

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
        if self.num_classes is None:
            return
        for index, sample in enumerate(samples):
            labels = getattr(sample, 'gt_sem_seg', None)
            if labels is not None:
                check_labels(labels.data, self.num_classes, self.ignore_index, _name(samples, index, 'seg_map_path', 'img_path'))


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

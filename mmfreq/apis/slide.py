"""Segmentation of large images by windows, with the memory of one row of windows.

mmseg's `slide_inference` keeps the logits of all classes for the whole image, and its caller resizes them. Here the ids of each row
of pixels are decided as soon as no later window covers it. The logits of overlapping windows are averaged as there, in the same
order, so the result is the same.

Legend: K classes, H W the size of the image.
"""

from dataclasses import dataclass

import numpy as np
import torch

from mmfreq.apis.reading import type_name
from mmfreq.errors import UserError

RESIZING = ('Resize', 'ResizeShortestEdge', 'ResizeToMultiple', 'RandomResize', 'Pad')  # steps of a pipeline
SMALLEST = 32  # pixels of a crop's sides
ROWS = 32  # of pixels that are decided together


@dataclass(frozen=True)
class Windows:
    """(H, W) of the windows, and the (y, x) distances of their starts."""

    crop: tuple[int, int]
    stride: tuple[int, int]


def windows_of(cfg, model, sizes=()) -> Windows:
    """The windows for a segmentor, as its config or `sizes` define them.

    Args:
        cfg: its Config; crop and stride are those of `test_cfg` in mode 'slide', or else the training crop and 2/3 of it.
        sizes: a crop, or a crop and a stride, for both axes.

    Raises:
        UserError: the model is not a segmentor of mmseg, there is no training crop, or the sizes are invalid.
    """
    if not all(hasattr(model, name) for name in ('encode_decode', 'out_channels', 'test_cfg')):
        raise UserError(f'Windows are for segmentors of mmseg, and this model is a {type(model).__name__}. Run it without --slide.')
    if len(sizes) > 2:
        raise UserError(f'Expected a crop and a stride for --slide, got {len(sizes)} numbers: {list(sizes)}. Give at most two.')
    test_cfg = model.test_cfg or {}
    if sizes:
        crop, stride = _pair(sizes[0]), _pair(sizes[1]) if len(sizes) == 2 else None
    elif test_cfg.get('mode') == 'slide':
        crop, stride = _pair(test_cfg['crop_size']), _pair(test_cfg['stride'])
    else:
        crop, stride = _training_crop(cfg, model), None
    stride = stride or tuple(max(2 * side // 3, 1) for side in crop)
    if min(crop) < SMALLEST or any(not 1 <= step <= side for step, side in zip(stride, crop)):
        raise UserError(
            f'Expected windows of at least {SMALLEST} pixels and a stride from 1 to their size; got the crop {crop} and the '
            f'stride {stride}. Change the numbers after --slide, or crop_size and stride in model.test_cfg.'
        )
    return Windows(crop, stride)


def _training_crop(cfg, model):
    crops = [getattr(model.data_preprocessor, 'size', None), cfg.get('crop_size')]
    crops += [step.get('crop_size') for step in cfg.get('train_pipeline') or () if type_name(step) == 'RandomCrop']
    crop = next((crop for crop in crops if crop), None)
    if crop is None:
        raise UserError('The config has neither test_cfg.crop_size nor a training crop. Give the size of the windows: --slide 512.')
    return _pair(crop)


def _pair(size):
    return (int(size),) * 2 if isinstance(size, int | float) else tuple(int(side) for side in size)


def without_resizing(steps):
    """The steps of a pipeline that do not change the size of the image."""
    return [step for step in steps if type_name(step) not in RESIZING]


@torch.no_grad()
def segment_by_windows(model, image, windows, dtype=np.uint8):
    """Class ids (H, W) of `dtype` for an image, as `slide_inference` of mmseg computes them from the whole image.

    Args:
        model: a segmentor of mmseg in eval mode.
        image: tensor (C, H, W) in the form that the model's data preprocessor takes.

    Not guaranteed: the class of a pixel whose best classes have equal logits.
    """
    height, width = image.shape[1:]
    tops, lefts = _starts(height, windows.crop[0], windows.stride[0]), _starts(width, windows.crop[1], windows.stride[1])
    rows, columns = min(windows.crop[0], height), min(windows.crop[1], width)
    device = next(model.parameters()).device
    counts_y, counts_x = (_counts(*axis).to(device) for axis in ((tops, rows, height), (lefts, columns, width)))
    strip = torch.zeros(model.out_channels, rows, width, device=device)  # logits of the rows from `top`
    ids = np.empty((height, width), dtype)
    for top, following in zip(tops, [*tops[1:], height]):
        for left in lefts:
            window = image[:, top : top + rows, left : left + columns]
            strip[:, :, left : left + columns] += _logits(model, window)
        finished = following - top
        for start in range(0, finished, ROWS):
            done = slice(start, min(start + ROWS, finished))
            logits = strip[:, done] / (counts_y[top:following][done, None] * counts_x)
            ids[top:following][done] = _decide(model, logits).cpu().numpy()
        for start in range(finished, rows, finished):  # moves the rest up without a copy of it
            part = strip[:, start : start + finished]
            strip[:, start - finished :][:, : part.shape[1]] = part
        strip[:, rows - finished :] = 0
    return ids


def _starts(length, crop, stride):
    """Where windows begin along an axis; the last one is moved back inside the image."""
    count = -(-max(length - crop, 0) // stride) + 1
    return [max(min(number * stride, length - crop), 0) for number in range(count)]


def _counts(starts, size, length):
    """How many windows cover each position of an axis."""
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + size] += 1
    return counts


def _logits(model, window):
    from mmseg.structures import SegDataSample

    inputs = model.data_preprocessor({'inputs': [window], 'data_samples': [SegDataSample()]}, False)['inputs']
    size = inputs.shape[2:]  # a torch.Size: by it mmseg's heads recognize a window
    logits = model.encode_decode(inputs, [{'img_shape': size, 'ori_shape': size}])
    return logits[0, :, : window.shape[1], : window.shape[2]]


def _decide(model, logits):
    if len(logits) > 1:
        return logits.argmax(dim=0)
    return logits[0].sigmoid() > model.decode_head.threshold

"""How an image becomes the input of a model, as plain data: for files that other programs run.

A description is a dict that JSON can hold. Sizes are [H, W] in pixels:

| key | meaning |
|---|---|
| `resize` | steps, applied in this order; each has a `rule` (see `RULES`), an `interpolation`, and `antialias` |
| `crop` | `[H, W]` of a crop from the center, or None |
| `pad` | `divisor` of the sides, or the `size`, and the normalized `value` of each channel; on the right and below; or None |
| `undescribed` | steps of the pipeline that change the image in ways that no key expresses; empty if the description is complete |
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from mmfreq.apis.reading import loads_an_image, type_name
from mmfreq.errors import UserError
from mmfreq.models._factory import backbone_class

RULES = {  # of a resize step -> what the sides become
    'stretch': 'the `size`',
    'within': 'as large as possible with the longer side up to `long` and the shorter up to `short`; the aspect ratio is kept',
    'fit': 'as large as possible within the `size`; the aspect ratio is kept',
    'cover': 'as small as possible with both sides at least the `size`; the aspect ratio is kept',
    'multiple': 'multiples of `divisor`, rounded up or, with `down`, down',
}
INTERPOLATIONS = {'cv2': ('bilinear', 'bicubic'), 'pillow': ('bilinear', 'bicubic', 'box', 'hamming', 'lanczos')}
ORDER = ('resize', 'crop', 'pad')


def split_pipeline(steps: Sequence[Mapping]) -> list[Mapping]:
    """The transform of a test pipeline that loads the image, and the later ones without those that load annotations.

    Raises:
        UserError: the first transform does not load one image.
    """
    if not steps or not loads_an_image(steps[0]):
        names = [type_name(step) for step in steps]
        raise UserError(f'Expected a test pipeline that begins with LoadImageFromFile, or loads one image otherwise; got {names}.')
    return [steps[0], *(step for step in steps[1:] if type_name(step) not in ('LoadImageFromFile', 'LoadAnnotations'))]


def published_preprocessing(arch: str) -> dict[str, Any]:
    """The description of the published ImageNet evaluation of an arch, which resizes with Pillow."""
    published = backbone_class(arch).published_preprocessing(arch)
    how = {'interpolation': published.interpolation, 'antialias': True}
    if published.resize is None:
        return _description([{'rule': 'stretch', 'size': [published.size] * 2, **how}])
    return _description([{'rule': 'cover', 'size': [published.resize] * 2, **how}], [published.size] * 2)


def described_preprocessing(pipeline: Sequence[Mapping], preprocessor: nn.Module, channels: int) -> dict[str, Any]:
    """The description of a test pipeline and the data preprocessor behind it; normalization is described elsewhere.

    Args:
        pipeline: configs of the transforms, the loading one first; empty if the image is not changed.
        channels: of the model.
    """
    described = _description(pad=_batch_padding(preprocessor, channels))
    reached = 0
    for step in split_pipeline(pipeline)[1:] if pipeline and loads_an_image(pipeline[0]) else pipeline:
        if type_name(step).startswith('Pack'):
            continue
        try:
            key, value = TRANSFORMS[type_name(step)](**_arguments(step))
            if ORDER.index(key) < reached or (key != 'resize' and described[key]):
                raise ValueError(f'{key} after {ORDER[reached]}')
        except (KeyError, TypeError, ValueError):
            described['undescribed'].append(_shown(step))
            continue
        reached = ORDER.index(key)
        if key == 'resize':
            described['resize'] += [value] if value else []
        else:
            described[key] = value
    return described


def preprocessing_at(described: Mapping[str, Any], size: tuple[int, int], task: str) -> dict[str, Any]:
    """The description for a file that takes images of one size only.

    For a detector the image fits into the size and is padded, unless the pipeline stretches it. For a classifier that crops, the
    sides before the crop are in the ratio of the pipeline. Otherwise the image is stretched to the size.
    """
    size, steps, how = list(size), described['resize'], {'interpolation': 'bilinear', 'antialias': False}
    how = {name: (steps[0] if steps else how)[name] for name in how}
    at = {**described, 'resize': [{'rule': 'stretch', 'size': size, **how}], 'crop': None, 'pad': None}
    if task == 'detection' and not (steps and steps[0]['rule'] == 'stretch'):
        value = (described['pad'] or {}).get('value', [0.0])
        at |= {'resize': [{'rule': 'fit', 'size': size, **how}], 'pad': {'size': size, 'value': value}}
    elif described['crop']:
        ratios = [side / cropped for side, cropped in zip(size, described['crop'])]
        at |= {'resize': [_scaled(step, ratios) for step in steps], 'crop': size}
    return at


def _description(resize=(), crop=None, pad=None) -> dict[str, Any]:
    return {'resize': list(resize), 'crop': crop, 'pad': pad, 'undescribed': []}


def _scaled(step: Mapping, ratios: Sequence[float]) -> dict[str, Any]:
    """A resize step before a crop, for a crop of other sides."""
    if 'size' not in step:
        return dict(step)
    return {**step, 'size': [round(side * ratio) for side, ratio in zip(step['size'], ratios)]}


def _arguments(step: Mapping) -> dict[str, Any]:
    return {name: value for name, value in step.items() if name not in ('type', '_scope_')}


def _shown(step: Mapping) -> str:
    return f'{type_name(step)}({", ".join(f"{name}={value!r}" for name, value in _arguments(step).items())})'


def _batch_padding(preprocessor: nn.Module, channels: int) -> dict[str, Any] | None:
    """The padding of a data preprocessor in tests: `pad_size_divisor` of mmdet and mmpretrain, `test_cfg` of mmseg."""
    of_tests = getattr(preprocessor, 'test_cfg', None) or {}
    divisor = of_tests.get('size_divisor') or getattr(preprocessor, 'pad_size_divisor', 1)
    value = [float(getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0)))] * channels
    if of_tests.get('size'):
        return {'size': list(of_tests['size']), 'value': value}
    return {'divisor': divisor, 'value': value} if divisor > 1 else None


# The parameters are those of the transforms; another one raises a TypeError, and the step is listed as undescribed.


def _how(interpolation: str | None = None, backend: str = 'cv2') -> dict[str, Any]:
    interpolation = interpolation or 'bilinear'
    if interpolation not in INTERPOLATIONS[backend]:
        raise ValueError(interpolation)
    return {'interpolation': interpolation, 'antialias': backend == 'pillow'}


def _resize(scale=None, scale_factor=None, keep_ratio=False, clip_object_border=True, **how):
    if scale is None:
        if scale_factor not in (1, (1, 1), [1, 1]):
            raise ValueError(scale_factor)
        return 'resize', None
    width, height = (scale, scale) if isinstance(scale, int) else scale
    if keep_ratio:
        return 'resize', {'rule': 'within', 'long': max(width, height), 'short': min(width, height), **_how(**how)}
    return 'resize', {'rule': 'stretch', 'size': [height, width], **_how(**how)}


def _resize_edge(scale, edge='short', **how):
    if edge != 'short':
        raise ValueError(edge)
    return 'resize', {'rule': 'cover', 'size': [scale, scale], **_how(**how)}


def _resize_to_multiple(size_divisor=32, interpolation=None):
    return 'resize', {'rule': 'multiple', 'divisor': size_divisor, 'down': False, **_how(interpolation)}


def _resize_down_to_multiple(size_divisor=32):
    return 'resize', {'rule': 'multiple', 'divisor': size_divisor, 'down': True, **_how()}


def _center_crop(crop_size):
    width, height = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    return 'crop', [height, width]


TRANSFORMS: dict[str, Callable[..., tuple[str, Any]]] = {
    'Resize': _resize,
    'ResizeEdge': _resize_edge,
    'ResizeToMultiple': _resize_to_multiple,
    'ResizeDownToMultiple': _resize_down_to_multiple,
    'CenterCrop': _center_crop,
}

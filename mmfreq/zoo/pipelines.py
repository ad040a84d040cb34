"""What the steps of a data pipeline do to size and colour, in few words, so that two pipelines can be compared."""

from itertools import pairwise

from mmfreq.engine.machine import type_name

NAMES = {
    'PhotoMetricDistortion': 'photometric distortion',
    'MinIoURandomCrop': 'crops by overlap',
    'ColorJitter': 'colour jitter',
}


def _size(value) -> str:
    return 'x'.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _resize(step) -> str:
    if 'scale' not in step:
        return f'x {step["scale_factor"]}'
    return f'within {_size(step["scale"])}' if step.get('keep_ratio') else f'warp to {_size(step["scale"])}'


def _random_resize(step) -> str:
    low, high = step['ratio_range']
    return f'within {_size(step["scale"])} x {low:g}-{high:g}'


def _choice(step) -> str:
    return ' or '.join(f'({describe(branch)})' for branch in step['transforms'])


def _choice_resize(step) -> str:
    scales = [tuple(scale) for scale in step['scales']]
    shorter = sorted({min(scale) for scale in scales})
    gaps = {b - a for a, b in pairwise(shorter)}
    sides = f'{shorter[0]}-{shorter[-1]} step {gaps.pop()}' if len(gaps) == 1 and len(shorter) > 3 else '/'.join(map(str, shorter))
    return f'shorter side {sides}, longer to {max(max(scale) for scale in scales)}'


WORDS = {
    'Resize': _resize,
    'RandomResize': _random_resize,
    'RandomChoiceResize': _choice_resize,
    'RandomChoice': _choice,
    'ResizeEdge': lambda step: f'{step["edge"]} side {step["scale"]}',
    'RandomResizedCrop': lambda step: f'random area to {_size(step["scale"])}',
    'CenterCrop': lambda step: f'centre {_size(step["crop_size"])}',
    'RandomCrop': lambda step: f'crop {_size(step["crop_size"])}',
    'ResizeToMultiple': lambda step: f'up to multiples of {step["size_divisor"]}',
    'ResizeDownToMultiple': lambda step: f'down to multiples of {step["size_divisor"]}',
    'RandomFlip': lambda step: f'flip {_size(step["prob"])}',
    'RandAugment': lambda step: f'RandAugment m{step["magnitude_level"]:g}',
    'RandomErasing': lambda step: f'erasing {step["erase_prob"]:g}',
    'Pad': lambda step: f'pad to {_size(step["size"])}' if 'size' in step else f'pad to multiples of {step["size_divisor"]}',
}
PLAIN = ('Load', 'Pack')  # steps that read and hand on


def describe(pipeline) -> str:
    """The steps of a pipeline in their order; one that is not known is named by its type, so that nothing goes unseen."""
    words = []
    for step in pipeline:
        kind = type_name(step['type'])
        if kind.startswith(PLAIN):
            continue
        words.append(WORDS[kind](step) if kind in WORDS else NAMES.get(kind, kind))
    return ', '.join(words)

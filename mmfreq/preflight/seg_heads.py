"""The heads of a segmentor: the number of their channels, their losses, and the labels that these ignore.

mmseg's own losses are tried on a few pixels: they must be computable, and lower for right predictions than for wrong ones. Other
losses are not tried, as they may need more than a head and labels: a certain size of maps, or the number of the iteration.
"""

import warnings
from functools import cache

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, TASK_UTILS, DefaultScope
from mmengine.structures import PixelData

from mmfreq.config.meta_model import logging_disabled
from mmfreq.config.reading import type_name
from mmfreq.errors import DataError
from mmfreq.preflight.data import dataset_classes, has_plain_losses, loader_datasets, model_heads
from mmfreq.preflight.evaluators import check_iou_metric, metric_config

ONE_MAP = (
    'For one sigmoid map name two classes, background and the object, in `metainfo`, and set num_classes=2, out_channels=1, '
    "threshold=0.5, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True) in every head."
)
GPU_LOSSES = ('FocalLoss',)  # mmseg 1.2 computes these on a GPU only
PIXEL_LOSSES = ('CrossEntropyLoss', 'DiceLoss', 'TverskyLoss', 'LovaszLoss')  # lower for right predictions, whatever the labels are
GRID = (37, 29)  # pixels of the trial: no usual number of classes, so that no list of weights fits a side by chance


def check_heads(cfg, report, loaders):
    """Check the heads of a segmentor, and that its evaluator fits them.

    Raises:
        DataError: a number of classes or channels that mmseg does not score rightly; a loss that cannot be computed, or that is
            not lower for right predictions; an evaluator that would fail after the first validation.
    """
    heads = segmentation_heads(cfg)
    for name, head in heads:
        if has_plain_losses(head):
            _check_channels(cfg, name, head, report)
            _check_weights(name, head)
    if fault := loss_fault(cfg):
        raise DataError(fault)
    _report_losses(cfg, report)
    check_iou_metric(cfg)
    _check_ignored(cfg, heads, report)
    _compare_classes(cfg, heads, report, loaders)


def segmentation_heads(cfg):
    """(config key, config) of the decode heads and the auxiliary heads of a segmentor."""
    return [(name, head) for name, head in model_heads(cfg) if isinstance(head, dict)]


def _check_channels(cfg, name, head, report):
    """Raise for one class, and for numbers of channels that mmseg cannot train or score."""
    count, channels = head.get('num_classes'), head.get('out_channels')
    if not isinstance(count, int):
        return
    if count == 1 and metric_config(cfg, 'IoUMetric') is not None:
        raise DataError(
            f'{name} has num_classes=1, which mmseg trains with the labels 0 and 1, but its IoUMetric counts the pixels of both '
            f'as the one class. {ONE_MAP}'
        )
    if count == 1:
        report.warnings.append(
            f'{name} has num_classes=1, which mmseg trains with the labels 0 and 1: val_evaluator must count both. {ONE_MAP}'
        )
    if channels not in (None, 1, count) or (channels == 1 and count > 2):
        raise DataError(
            f'{name} has num_classes={count} and out_channels={channels}; expected out_channels={count}, or 1 for two classes. '
            f'Remove out_channels. {ONE_MAP}'
        )
    if channels == 1 and head.get('threshold') is None and name.startswith('model.decode_head'):
        report.notes.append(f'{name} has out_channels=1 without a threshold: pixels with a probability above 0.3 are the object.')


def _check_weights(name, head):
    """Raise for `class_weight` of a length that fails or has another meaning. Weights in a file are left to the trial."""
    count, channels = head.get('num_classes'), head.get('out_channels')
    for loss in _losses(head):
        weights = loss.get('class_weight')
        if not isinstance(weights, (list, tuple)) or not isinstance(count, int):
            continue
        sigmoid = type_name(loss['type']) == 'CrossEntropyLoss' and loss.get('use_sigmoid')
        expected = 1 if sigmoid else channels or count
        if len(weights) != expected:
            numbers, remedy = f'{expected} numbers, one for each class,', 'Give one for each class.'
            if sigmoid:  # mmseg multiplies the columns of the image by several numbers
                numbers, remedy = 'one number, the weight of positive pixels,', 'Give one, or remove it.'
            raise DataError(f'{name}: expected {numbers} in class_weight of {loss["type"]}, got {len(weights)}. {remedy}')


def _losses(head):
    losses = head.get('loss_decode') or {}
    return [
        loss for loss in (losses if isinstance(losses, (list, tuple)) else [losses]) if isinstance(loss, dict) and 'type' in loss
    ]


def loss_fault(cfg, ignored='none'):
    """Try mmseg's losses of the heads on a few pixels; a sentence with what is wrong and what to do, or ''.

    Args:
        ignored: 'none', 'some' or 'all' of the pixels have the label `ignore_index`; then only errors are looked for.
    """
    for name, head, losses in _tried_losses(cfg):
        values = []
        for loss in losses:
            try:
                values.append(_values(head, loss, ignored))
            except Exception as error:  # whatever a loss raises, a run would raise in its first iteration
                return f'the loss {type_name(loss["type"])} of {name} {_failure(head, loss, ignored, error)}'
        if ignored == 'none' and _are_comparable(head):
            right, wrong = (sum(column) for column in zip(*values, strict=True))
            if not right < wrong:
                return f'{_names(losses)} of {name} {_direction(head, right, wrong)}'
    return ''


def _tried_losses(cfg):
    """Yield (config key, head, losses) of the heads that compute losses of mmseg as `BaseDecodeHead` does."""
    for name, head in segmentation_heads(cfg):
        count, sampler = head.get('num_classes'), head.get('sampler')
        if not isinstance(count, int) or count < 2 or not has_plain_losses(head) or (sampler and not _is_of_mmseg(sampler)):
            continue
        losses = [loss for loss in _used_losses(head) if _is_of_mmseg(loss) and type_name(loss['type']) not in GPU_LOSSES]
        if losses:
            yield name, head, losses


def _used_losses(head):
    return [loss for loss in _losses(head) if loss.get('loss_weight') != 0]


def _is_of_mmseg(part):
    """Whether the class of a loss or sampler is one of mmseg's own."""
    cls = part.get('type')
    if isinstance(cls, str):
        found = []
        for registry in (MODELS, TASK_UTILS):
            with registry.switch_scope_and_registry('mmseg') as scoped:
                found.append(scoped.get(cls))
        cls = next((each for each in found if each is not None), None)
    return getattr(cls, '__module__', '').startswith('mmseg.')


def _are_comparable(head):
    """Whether the sum of a head's losses must be lower for right predictions."""
    return all(type_name(loss['type']) in PIXEL_LOSSES and _is_of_mmseg(loss) for loss in _used_losses(head))


def _names(losses):
    names = [type_name(loss['type']) for loss in losses]
    return f'the loss {names[0]}' if len(names) == 1 else f'the sum of the losses {" and ".join(names)}'


def _where(head):
    channels, sampler = head.get('out_channels') or head['num_classes'], head.get('sampler')
    text = f'num_classes={head["num_classes"]}, out_channels={channels}'
    return text + (f', sampler {type_name(sampler.get("type", ""))}' if sampler else '')


def _remedy(head):
    if head.get('sampler'):
        return 'Remove the sampler, or its `thresh` if out_channels=1.'
    return ONE_MAP if head.get('out_channels') == 1 else 'Check the options of the loss, or use CrossEntropyLoss.'


def _failure(head, loss, ignored, error):
    """The rest of a sentence about a loss that raised an error, and the remedy."""
    where, remedy = _where(head), _remedy(head)
    if ignored != 'none':
        where, remedy = f'{where}, ignore_index={head.get("ignore_index", 255)}', 'Label all pixels, or use another loss.'
        if loss.get('class_weight'):
            remedy = "Set reduction='none' in this loss, which mmseg then averages, or remove class_weight."
    text = ' '.join(str(error).split())[:150].rstrip('.')
    return f'cannot be computed ({where}): {type(error).__name__}: {text}. {remedy}'


def _direction(head, right, wrong):
    """The rest of a sentence about losses that do not prefer right predictions, and the remedy."""
    return (
        f'is {right:.2f} for right and {wrong:.2f} for wrong predictions ({_where(head)}), so the model would learn '
        f'{"the opposite" if right > wrong else "nothing"}. {_remedy(head)}'
    )


def _report_losses(cfg, report):
    """Warn about losses that need a GPU where there is none, and about one of several losses that is no use by itself."""
    for name, head in segmentation_heads(cfg):
        needing = [loss for loss in _used_losses(head) if type_name(loss['type']) in GPU_LOSSES and _is_of_mmseg(loss)]
        if needing and has_plain_losses(head) and get_device() != 'cuda':
            loss = type_name(needing[0]['type'])
            report.warnings.append(
                f'{name}: mmseg computes {loss} on a GPU only, and torch finds none on this machine, where training would stop in '
                'the first iteration. Train on a machine with a GPU, or use CrossEntropyLoss.'
            )
    for name, head, losses in _tried_losses(cfg):
        if head.get('out_channels') != 1 or len(losses) < 2:
            continue
        for loss in losses:
            right, wrong = _values(head, loss, 'none')
            if type_name(loss['type']) in PIXEL_LOSSES and not right < wrong:
                report.warnings.append(
                    f'the loss {type_name(loss["type"])} of {name} {_direction(head, right, wrong)} It is one of several losses, '
                    'the sum of which is lower for right predictions.'
                )


def _values(head, loss, ignored):
    """A loss for right and for wrong predictions."""
    count = head['num_classes']
    labels = torch.arange(2 * GRID[0] * GRID[1]).view(2, *GRID) % count
    if ignored != 'none':
        labels[:, : GRID[0] if ignored == 'all' else 2] = head.get('ignore_index', 255)
    return [_value(head, loss, head.get('out_channels') or count, labels, shift) for shift in (0, 1)]


def _value(head, loss, channels, labels, shift):
    """The loss of predictions that are `labels + shift`, as mmseg computes it."""
    from mmseg.structures import SegDataSample

    count = head['num_classes']
    predicted = (labels + shift) % count  # ignored pixels get any class
    if channels == 1:
        logits = predicted[:, None].float() * 8 - 4
    else:
        logits = torch.nn.functional.one_hot(predicted, count).permute(0, 3, 1, 2).contiguous() * 8.0
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]
    options = {key: head[key] for key in ('out_channels', 'ignore_index', 'sampler') if key in head}
    with DefaultScope.overwrite_default_scope('mmseg'), logging_disabled(), warnings.catch_warnings(), torch.random.fork_rng([]):
        warnings.simplefilter('ignore')
        trial = _trial_head()(1, 1, num_classes=count, loss_decode=Config({'loss': loss}).loss, **options)
        terms = trial.loss_by_feat(logits, samples)
    return sum(float(term.mean()) for key, term in terms.items() if 'loss' in key)


@cache
def _trial_head():
    """The class of a head that only computes losses."""
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    class TrialHead(BaseDecodeHead):
        def forward(self, inputs):
            return inputs

    return TrialHead


def _check_ignored(cfg, heads, report):
    """Compare the ignored label of the heads with those of the metric and of padding."""
    values = {name: head.get('ignore_index', 255) for name, head in heads if has_plain_losses(head)}
    if not values:
        return
    main = next(iter(values))
    ignored, count = values[main], dict(heads)[main].get('num_classes') or 0
    others = {name: value for name, value in values.items() if value != ignored}
    metric = metric_config(cfg, 'IoUMetric')
    if metric is not None and metric.get('ignore_index', 255) != ignored:
        others['val_evaluator'] = metric.get('ignore_index', 255)
    if others:
        found = ', '.join(f'{name} {value}' for name, value in others.items())
        report.warnings.append(
            f'{main} has ignore_index={ignored}, but {found}. What one of them ignores is trained or scored by another: set the '
            'same ignore_index everywhere.'
        )
    elif isinstance(ignored, int) and 0 <= ignored < count:
        report.warnings.append(
            f'{main} and the metric have ignore_index={ignored}, which is a class: it is never trained, and its IoU of 0 or NaN is '
            'part of mIoU. If 0 is no class in the files, use reduce_zero_label=True and ignore_index=255.'
        )
    padded = padding_label(cfg)
    if padded not in (None, ignored):
        report.warnings.append(
            f'data_preprocessor.seg_pad_val={padded}, but {main} has ignore_index={ignored}: padding would be trained as a label. '
            f'Set seg_pad_val={ignored}.'
        )


def padding_label(cfg):
    """The label that padded pixels get in training; None if images are not padded."""
    model = cfg.model.get('module') or cfg.model
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return preprocessor.get('seg_pad_val', 255) if preprocessor.get('size') or preprocessor.get('size_divisor') else None


def _compare_classes(cfg, heads, report, loaders):
    """Report heads with more classes than the data; raise if `IoUMetric` has no classes to score."""
    counts = {name: head.get('num_classes') for name, head in heads if isinstance(head.get('num_classes'), int)}
    for key, leaf in loader_datasets(cfg, loaders):
        classes = dataset_classes(leaf, cfg.default_scope)
        trained = key.startswith('train_')
        if not trained and metric_config(cfg, 'IoUMetric') is not None:
            _check_scored(key, leaf, classes)
        wider = [name for name, count in counts.items() if classes and count > len(classes)]
        if wider and trained:
            report.notes.append(
                f'{key} has {len(classes)} classes, but {wider[0]} has num_classes={counts[wider[0]]}. Where it predicts another '
                f'one, the pixel counts as an error. Usually num_classes={len(classes)} is right, in every head.'
            )


def _check_scored(key, leaf, classes):
    """Raise for a dataset whose classes `IoUMetric` cannot score."""
    if classes is None and type_name(leaf.get('type', '')) == 'BaseSegDataset':
        raise DataError(
            f'{key} (BaseSegDataset) names no classes, and IoUMetric would fail in the first validation. Set '
            "metainfo=dict(classes=('background', ...)) in every dataset."
        )
    if classes is not None and len(classes) == 1:
        raise DataError(f'{key} has one class, {classes[0]!r}, and IoUMetric counts the pixels of all labels as it. {ONE_MAP}')

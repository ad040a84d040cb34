"""Evaluators of a config: what would fail, or be wrong, after the first epoch of training."""

from mmfreq.config.reading import type_name
from mmfreq.errors import DataError
from mmfreq.preflight.data import first_names, model_heads

IOU_METRICS = {  # `iou_metrics` of mmseg's IoUMetric -> the names of the scores
    'mIoU': ('mIoU', 'mAcc'),
    'mDice': ('mDice', 'mAcc'),
    'mFscore': ('mFscore', 'mPrecision', 'mRecall'),
}


def metrics(cfg, name='val_evaluator'):
    """The configs of the metrics of an evaluator."""
    evaluator = cfg.get(name) or []
    if isinstance(evaluator, dict) and 'metrics' in evaluator and 'type' in evaluator and 'Metric' not in str(evaluator['type']):
        evaluator = evaluator['metrics']  # `dict(type='Evaluator', metrics=[...])`
    evaluator = [evaluator] if isinstance(evaluator, dict) else evaluator
    return [metric for metric in evaluator if isinstance(metric, dict)]


def metric_config(cfg, name):
    """The config of the metric with a type name in `val_evaluator`; None if there is none."""
    return next((metric for metric in metrics(cfg) if type_name(metric.get('type', '')) == name), None)


def check_iou_metric(cfg):
    """Check the scores of mmseg's `IoUMetric` and the one that chooses the best checkpoint.

    Raises:
        DataError: a name that `IoUMetric` does not know, or a `save_best` that is not one of its scores.
    """
    known = []
    for metric in metrics(cfg):
        if type_name(metric.get('type', '')) != 'IoUMetric':
            known = None
            break
        names = metric.get('iou_metrics', ['mIoU'])
        names = [names] if isinstance(names, str) else list(names)
        unknown = [name for name in names if name not in IOU_METRICS]
        if unknown:
            raise DataError(
                f'val_evaluator: IoUMetric has iou_metrics {", ".join(IOU_METRICS)}, got {first_names(map(repr, unknown))}, which '
                'would fail at the end of the first validation. Use the names as they are written here.'
            )
        prefix = f'{metric["prefix"]}/' if metric.get('prefix') else ''
        known += [f'{prefix}{score}' for name in names for score in ('aAcc', *IOU_METRICS[name])]
    check_save_best(cfg, known)


def check_save_best(cfg, scores):
    """Raise `DataError` if `save_best` of the checkpoint hook is not one of the scores; nothing is checked without scores."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    keys = hook.get('save_best') or []
    keys = [keys] if isinstance(keys, str) else keys
    unknown = [key for key in keys if key not in ('auto', *(scores or ()))]
    if scores and unknown:
        raise DataError(
            f'default_hooks.checkpoint.save_best={unknown[0]!r} is not a score of val_evaluator, and the run would fail after its '
            f'first validation. The scores are {", ".join(dict.fromkeys(scores))}.'
        )


def check_accuracy(cfg, count, several):
    """Check mmpretrain's metrics against the number of classes, and the score that chooses the best checkpoint.

    Args:
        count: classes of the head, or None.
        several: whether images have several labels.

    Raises:
        DataError: a metric that would fail after the first epoch, or a `save_best` that is not one of its scores.
    """
    known = []
    for metric in metrics(cfg):
        kind = type_name(metric.get('type', ''))
        topk = metric.get('topk') or (1 if kind == 'Accuracy' else 0)
        topk = [topk] if isinstance(topk, int) else list(topk)
        if count and max(topk, default=0) > count:
            raise DataError(
                f'val_evaluator: {kind} has topk={metric.get("topk")}, but the head has num_classes={count}, so it would fail '
                f'after the first epoch. Set topk to numbers up to {count}, such as (1,).'
            )
        if several and kind in ('Accuracy', 'SingleLabelMetric', 'ConfusionMatrix'):
            raise DataError(
                f'val_evaluator: {kind} is for one label per image, but images have several and it would fail after the first '
                'epoch. Use MultiLabelMetric or AveragePrecision.'
            )
        if kind == 'Accuracy' and known is not None and not isinstance(metric.get('thrs'), (list, tuple)):
            known += [f'{metric.get("prefix") or "accuracy"}/top{k}' for k in topk]
        else:
            known = None
    for name, head in model_heads(cfg):
        topk = head.get('topk') or 1
        if count and head.get('cal_acc') and max([topk] if isinstance(topk, int) else topk) > count:
            raise DataError(
                f'{name} has topk={topk} with cal_acc=True, but num_classes={count}, so the first iteration would fail. Set '
                'topk=(1,).'
            )
    check_save_best(cfg, known)

"""Evaluators of a config: what would fail, or be wrong, after the first epoch of training."""

from mmfreq.config.reading import type_name
from mmfreq.errors import DataError
from mmfreq.preflight.data import first_names

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

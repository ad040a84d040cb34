"""The score of each class in a test: IoU of segmentors, AP of detectors; `tools/test.py --classwise`."""

from pathlib import Path

import numpy as np

from mmfreq.analysis.class_scores import ClassScores, plot_class_scores
from mmfreq.analysis.plot_style import save
from mmfreq.config.reading import type_name
from mmfreq.engine.baseline import capture_class_ious
from mmfreq.engine.evaluation import metrics_of
from mmfreq.engine.launch import build_runner, prepare_test
from mmfreq.errors import UserError
from mmfreq.log import log_once

FILE = 'class_scores.png'
SUFFIX = '_precision'  # of mmdet's names of the APs of classes
AP_METRICS = ('bbox', 'segm')  # of CocoMetric; its others have no classes
THRESHOLDS = 6  # IoU thresholds at least, as mmdet reads the sixth for AP at 0.75


def evaluate_by_class(config, checkpoint, plot=False, **options):
    """Test a segmentor or detector as `engine.launch.evaluate` does, with the score of each class.

    A class without a labeled object has AP NaN. IoU is NaN for a class that is neither labeled nor predicted; one that is
    predicted only has 0, which counts in mIoU.

    Args:
        plot: save a chart as `class_scores.png` in the folder `out`, or else in the work directory.

    Returns:
        (metrics, list of `ClassScores`); the list is empty if a detector found nothing, and in all processes but the first.

    Raises:
        UserError: `test_evaluator` has no metric with scores of classes; and the errors of `prepare_test`.
    """
    cfg = prepare_test(config, checkpoint, **options)
    detects = cfg.get('default_scope') == 'mmdet'
    if detects:
        set_classwise(cfg)
    elif not any(type_name(metric.get('type')) == 'IoUMetric' for metric in metrics_of(cfg)):
        raise UserError(
            f'--classwise needs an IoUMetric (segmentation) or a CocoMetric (detection) in test_evaluator; the config has '
            f'{_names(cfg)}. Remove --classwise.'
        )
    runner = build_runner(cfg)
    scores = capture_class_aps(runner) if detects else []
    captured = {} if detects else capture_class_ious(runner)
    metrics = runner.test()
    if captured:
        classes = tuple(runner.test_dataloader.dataset.metainfo['classes'])
        scores.append(ClassScores('IoU', classes, captured['iou'], float(np.nanmean(captured['iou']))))
    if not scores:
        log_once('There are no scores of classes, as the detector found nothing.')
    if plot and scores:
        file = save(
            plot_class_scores(scores, f'Class scores of {Path(config).stem}'), Path(options.get('out') or cfg.work_dir, FILE)
        )
        log_once(f'The scores of the classes are drawn in {file}.')
    return metrics, scores


def set_classwise(cfg):
    """Set `classwise=True` in every CocoMetric of `test_evaluator`.

    Raises:
        UserError: there is none, or one that has no AP of classes.
    """
    metrics = [metric for metric in metrics_of(cfg) if type_name(metric.get('type')) == 'CocoMetric']
    if not metrics:
        raise UserError(
            f'--classwise prints the AP of each class by a CocoMetric in test_evaluator; the config has {_names(cfg)}. Add a '
            'CocoMetric, or remove --classwise.'
        )
    for metric in metrics:
        names = metric.get('metric', 'bbox')
        names = [names] if isinstance(names, str) else list(names)
        thresholds = metric.get('iou_thrs')
        if not set(names) & set(AP_METRICS) or metric.get('format_only'):
            found = 'format_only=True' if metric.get('format_only') else f'metric={names}'
            raise UserError(
                f'--classwise needs AP of boxes or masks, but the CocoMetric in test_evaluator has {found}. '
                "Set test_evaluator.metric='bbox' or 'segm' without format_only, or remove --classwise."
            )
        if thresholds is not None and (isinstance(thresholds, float) or len(thresholds) < THRESHOLDS):
            raise UserError(
                f'--classwise needs the ten IoU thresholds of COCO, as mmdet reads the AP at 0.5 and 0.75 by their place; '
                f'test_evaluator has iou_thrs={thresholds}. Remove iou_thrs, or --classwise.'
            )
        metric.classwise = True


def capture_class_aps(runner):
    """Return a list that has a `ClassScores` for each AP of each CocoMetric after `runner.test()`, in the first process only."""
    from mmdet.evaluation import CocoMetric

    scores = []
    metrics = [metric for metric in runner.test_loop.evaluator.metrics if type(metric) is CocoMetric]
    for metric in metrics:
        prefix = f'{metric.prefix} ' if len(metrics) > 1 else ''
        _capture_aps(metric, prefix, scores)
    return scores


def _capture_aps(metric, prefix, scores):
    """Make a CocoMetric append to `scores`. mmdet's names of the APs are the same for boxes and masks: each is computed alone."""
    compute, names = metric.compute_metrics, list(metric.metrics)

    def compute_and_capture(results):
        every = {}
        for name in names:
            metric.metrics = [name]
            found = compute(results)
            every |= found
            aps = {key.removesuffix(SUFFIX): float(ap) for key, ap in found.items() if key.endswith(SUFFIX)}
            if name in AP_METRICS and aps:  # nothing was detected otherwise
                values = 100 * np.array(list(aps.values()))
                scores.append(ClassScores(f'{prefix}{name} AP', tuple(aps), values, _mean(values, found.get(f'{name}_mAP'))))
        return every

    metric.compute_metrics = compute_and_capture


def _mean(values, reported):
    """The mean AP in percent: the reported fraction if there is one; NaN without any object, where mmdet reports -1."""
    if np.isnan(values).all():
        return np.nan
    return float(np.nanmean(values)) if reported is None else 100 * reported


def _names(cfg):
    return ', '.join(type_name(metric.get('type')) for metric in metrics_of(cfg))

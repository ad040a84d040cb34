"""Compare a segmentor with the best constant prediction on the same data: `tools/test.py --baseline`."""

import copy
from dataclasses import dataclass

import numpy as np
from mmengine.dataset import Compose
from mmengine.registry import DATASETS

from mmfreq.analysis.constant_predictor import constant_predictor
from mmfreq.engine.launch import build_runner, load_config, prepare_test
from mmfreq.errors import UserError


@dataclass
class Comparison:
    """Class IoUs of a model and of the constant predictor, in percent; NaN for classes that do not occur."""

    classes: tuple
    iou: np.ndarray
    constant_iou: np.ndarray

    @property
    def miou(self):
        return float(np.nanmean(self.iou))

    @property
    def constant_miou(self):
        return float(np.nanmean(self.constant_iou))

    def rows(self):
        """(class, IoU, IoU of the constant predictor) for each class, and the mean last."""
        return [*zip(self.classes, self.iou, self.constant_iou), ('mean', self.miou, self.constant_miou)]

    def summary(self):
        """One line for scripts: `mIoU 45.12, constant predictor 9.33, ratio 4.8`."""
        ratio = self.miou / self.constant_miou
        return f'mIoU {self.miou:.2f}, constant predictor {self.constant_miou:.2f}, ratio {ratio:.1f}'


def evaluate_with_baseline(config, checkpoint, **options):
    """Test a segmentor as `engine.launch.evaluate` does, and compare it with the best constant prediction.

    Returns:
        (metrics, Comparison); in a distributed run the Comparison is None in all processes but the first.

    Raises:
        UserError: not a segmentation config, no IoUMetric, or a wrapped dataset; and the errors of `prepare_test`.
    """
    cfg = load_config(config, options.get('cfg_options'))
    if cfg.get('default_scope') != 'mmseg':
        raise UserError(
            f"--baseline needs a segmentation config (default_scope 'mmseg'); {config} has {cfg.get('default_scope')!r}."
        )
    runner = build_runner(prepare_test(config, checkpoint, **options))
    captured = capture_class_ious(runner)
    metrics = runner.test()
    return metrics, compare_with_constant(captured['iou'], cfg.test_dataloader.dataset) if captured else None


def capture_class_ious(runner):
    """Return a dict that has the class IoUs under 'iou' after `runner.test()`, in the first process only."""
    from mmseg.evaluation import IoUMetric

    metrics = runner.test_loop.evaluator.metrics
    metric = next((metric for metric in metrics if isinstance(metric, IoUMetric)), None)
    if metric is None:
        names = ', '.join(type(metric).__name__ for metric in metrics)
        raise UserError(f'--baseline compares class IoUs, and needs an IoUMetric in test_evaluator; got {names}.')
    captured, compute = {}, metric.compute_metrics

    def compute_and_capture(results):
        intersect, union = (sum(part).numpy().astype(float) for part in list(zip(*results))[:2])
        captured['iou'] = np.divide(100 * intersect, union, out=np.full_like(union, np.nan), where=union > 0)
        return compute(results)

    metric.compute_metrics = compute_and_capture
    return captured


def compare_with_constant(iou, dataset_cfg):
    """Compare class IoUs (percent) with the constant predictor's on a dataset.

    Args:
        dataset_cfg: from the config before test-time augmentation, so that its pipeline loads labels.
    """
    with DATASETS.switch_scope_and_registry('mmseg') as registry:
        dataset = registry.build(copy.deepcopy(dataset_cfg))
    if not isinstance(getattr(dataset, 'pipeline', None), Compose):
        raise UserError(f'--baseline needs a segmentation dataset without a wrapper; got {type(dataset).__name__}.')
    constant = constant_predictor(dataset)
    return Comparison(tuple(dataset.metainfo['classes']), iou, 100 * constant.per_class_iou)

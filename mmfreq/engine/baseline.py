"""A segmentation score beside the one that costs nothing: the best constant prediction on the same data."""

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
    """Class IoUs of a run and of the constant predictor, in percent; classes that do not occur are NaN and do not count."""

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
        """(class, IoU, IoU of the constant predictor), one for each class and the mean last."""
        return [*zip(self.classes, self.iou, self.constant_iou), ('mean', self.miou, self.constant_miou)]

    def summary(self):
        """The line that scripts read: `mIoU 45.12, constant predictor 9.33, ratio 4.8`."""
        ratio = self.miou / self.constant_miou
        return f'mIoU {self.miou:.2f}, constant predictor {self.constant_miou:.2f}, ratio {ratio:.1f}'


def evaluate_with_baseline(config, checkpoint, **options):
    """Evaluate a segmentor as `engine.launch.evaluate` does, and compare it with the best constant prediction.

    Returns:
        (metrics, Comparison); in other than the first process of a distributed run, None in place of the comparison.

    Raises:
        UserError: not a segmentation config, no IoUMetric, or a data set inside a wrapper; and what `prepare_test` raises.
    """
    plain = load_config(config, options.get('cfg_options'))
    if plain.get('default_scope') != 'mmseg':
        raise UserError(f"--baseline is for segmentation (default_scope 'mmseg'); {config} has {plain.get('default_scope')!r}.")
    runner = build_runner(prepare_test(config, checkpoint, **options))
    kept = keep_class_ious(runner)
    metrics = runner.test()
    return metrics, compare_with_constant(kept['iou'], plain.test_dataloader.dataset) if kept else None


def keep_class_ious(runner):
    """Make the runner's IoUMetric keep its class IoUs; returns the dict that has them under 'iou' after `runner.test()`.

    Only the first process of a distributed run gets them.
    """
    from mmseg.evaluation import IoUMetric

    metrics = runner.test_loop.evaluator.metrics
    metric = next((metric for metric in metrics if isinstance(metric, IoUMetric)), None)
    if metric is None:
        kinds = ', '.join(type(metric).__name__ for metric in metrics)
        raise UserError(f'--baseline compares class IoUs and needs an IoUMetric in test_evaluator; got {kinds}.')
    kept, compute = {}, metric.compute_metrics

    def compute_and_keep(results):
        intersect, union = (sum(part).numpy().astype(float) for part in list(zip(*results))[:2])
        kept['iou'] = np.divide(100 * intersect, union, out=np.full_like(union, np.nan), where=union > 0)
        return compute(results)

    metric.compute_metrics = compute_and_keep
    return kept


def compare_with_constant(iou, dataset_cfg):
    """A `Comparison` of class IoUs (percent) with the constant predictor's on a data set.

    Args:
        dataset_cfg: as the config has it, before test-time augmentation, so that its pipeline loads labels.
    """
    with DATASETS.switch_scope_and_registry('mmseg') as registry:
        dataset = registry.build(copy.deepcopy(dataset_cfg))
    if not isinstance(getattr(dataset, 'pipeline', None), Compose):
        raise UserError(f'--baseline takes a plain segmentation data set, not a wrapper: got {type(dataset).__name__}.')
    constant = constant_predictor(dataset)
    return Comparison(tuple(dataset.metainfo['classes']), iou, 100 * constant.per_class_iou)

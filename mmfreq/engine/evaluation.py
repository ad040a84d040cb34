"""What `tools/test.py` can add to a test: test-time augmentation, predictions on disk, images with predictions drawn on them.

Each function changes a config in place, for the library that its `default_scope` names.
"""

import os

from mmfreq.config.reading import absolute, type_name
from mmfreq.errors import UserError

MAX_CLASSES = 256  # of a label map of 8 bits
DUMP_METRICS = {'mmdet': 'DumpDetResults'}  # the metric that writes predictions, by default_scope; else mmengine's DumpResults


def use_tta(cfg):
    """Wrap the model in `cfg.tta_model`, and replace the test pipeline by `cfg.tta_pipeline`.

    Raises:
        UserError: the config lacks one of the two.
    """
    missing = [name for name in ('tta_model', 'tta_pipeline') if not cfg.get(name)]
    if missing:
        raise UserError(
            f'--tta needs tta_model and tta_pipeline; the config {cfg.filename} does not define {" or ".join(missing)}. '
            "Add them (mmseg's `_base_` runtime and dataset of ADE20K have both), or remove --tta."
        )
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while dataset.get('dataset'):
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


def write_predictions(cfg, folder):
    """Make the evaluator write predictions into a folder.

    mmseg: a label PNG for each image, with the labels of the dataset's own files (with `reduce_zero_label` the first class is 1).
    mmdet: `predictions.pkl`, and `results.*.json` for COCO metrics. Others: `predictions.pkl`.

    Raises:
        UserError: a segmentation config without a metric that writes label maps, or with more than 256 classes.
    """
    folder = str(absolute(folder))
    metrics = metrics_of(cfg)
    if cfg.get('default_scope') == 'mmseg':
        writers = [metric for metric in metrics if type_name(metric.get('type')) in ('IoUMetric', 'CityscapesMetric')]
        if not writers:
            names = ', '.join(type_name(metric.get('type')) for metric in metrics)
            raise UserError(f'--out needs an IoUMetric or CityscapesMetric in test_evaluator to write label maps; got {names}.')
        if (count := _class_count(cfg)) > MAX_CLASSES:
            raise UserError(
                f'--out writes label maps of 8 bits, which hold {MAX_CLASSES} classes; the model has {count}. Remove --out.'
            )
        writers[0].output_dir = folder
        writers[0].keep_results = True
        return
    os.makedirs(folder, exist_ok=True)
    for metric in metrics:
        if type_name(metric.get('type')) == 'CocoMetric':
            metric.outfile_prefix = os.path.join(folder, 'results')
    dump = DUMP_METRICS.get(cfg.get('default_scope'), 'DumpResults')
    cfg.test_evaluator = [*metrics, {'type': dump, 'out_file_path': os.path.join(folder, 'predictions.pkl')}]


def _class_count(cfg):
    """Number of classes of the last head, plus one if label 0 is no class."""
    model = cfg.model.get('module') or cfg.model
    heads = model.get('decode_head') or {}
    count = (heads[-1] if isinstance(heads, (list, tuple)) else heads).get('num_classes') or 0
    return count + bool((cfg.test_dataloader.get('dataset') or {}).get('reduce_zero_label'))


def draw_predictions(cfg, folder):
    """Make the library's visualization hook draw every test image into a folder.

    Raises:
        UserError: the config has no such hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise UserError("--show-dir needs default_hooks.visualization in the config: dict(type='SegVisualizationHook') in mmseg.")
    folder = str(absolute(folder))
    scope = cfg.get('default_scope')
    if scope == 'mmpretrain':
        hook.update(enable=True, out_dir=folder, interval=1)
    elif scope == 'mmdet':
        hook.update(draw=True, test_out_dir=folder)
    else:
        hook.update(draw=True, interval=1)
        backends = cfg.visualizer.get('vis_backends') or [{'type': 'LocalVisBackend'}]
        local = [backend for backend in backends if type_name(backend['type']) == 'LocalVisBackend']
        for backend in local:
            backend['img_save_dir'] = folder
        cfg.visualizer.vis_backends = backends if local else [*backends, {'type': 'LocalVisBackend', 'img_save_dir': folder}]


def metrics_of(cfg):
    """The metric configs of `test_evaluator` as a list; it may be one metric, a list, or an evaluator."""
    evaluator = cfg.test_evaluator
    metrics = evaluator.get('metrics', evaluator) if isinstance(evaluator, dict) else evaluator
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]

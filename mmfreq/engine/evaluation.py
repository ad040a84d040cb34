"""What `tools/test.py` asks for beyond the metrics: test-time augmentation, predictions on disk, pictures.

Each function changes a config in place, for the library that the config's `default_scope` names.
"""

import os

from mmfreq.config.reading import absolute, type_name
from mmfreq.errors import UserError

IDS = 256
DUMPS = {'mmdet': 'DumpDetResults'}  # the metric that writes predictions, where mmengine's is not enough


def use_tta(cfg):
    """Put `cfg.tta_model` around the model and `cfg.tta_pipeline` in place of the test pipeline.

    Raises:
        UserError: the config lacks one of the two.
    """
    absent = [name for name in ('tta_model', 'tta_pipeline') if not cfg.get(name)]
    if absent:
        raise UserError(
            f'--tta needs tta_model and tta_pipeline in the config; {cfg.filename} has no {" and no ".join(absent)}: add them '
            "(`_base_` runtimes and data sets of mmseg's ADE20K have both), or leave --tta out."
        )
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while dataset.get('dataset'):
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


def write_predictions(cfg, folder):
    """Have the evaluator write predictions into a folder.

    mmseg: one label PNG for each picture, in the labels of the data set's own files (with `reduce_zero_label` the first class
    is 1). mmdet: `predictions.pkl`, and for COCO metrics `results.*.json` too. Others: `predictions.pkl`.

    Raises:
        UserError: a segmentation config without a metric that can write label maps, or with more classes than these hold.
    """
    folder = str(absolute(folder))
    metrics = metrics_of(cfg)
    if cfg.get('default_scope') == 'mmseg':
        writers = [metric for metric in metrics if type_name(metric.get('type')) in ('IoUMetric', 'CityscapesMetric')]
        if not writers:
            kinds = ', '.join(type_name(metric.get('type')) for metric in metrics)
            raise UserError(f'--out needs an IoUMetric or CityscapesMetric in test_evaluator to write label maps; got {kinds}.')
        if (count := _class_count(cfg)) > IDS:
            raise UserError(f'--out writes label maps of 8 bits, which hold {IDS} classes; the model has {count}: leave --out out.')
        writers[0].output_dir = folder
        writers[0].keep_results = True
        return
    os.makedirs(folder, exist_ok=True)
    for metric in metrics:
        if type_name(metric.get('type')) == 'CocoMetric':
            metric.outfile_prefix = os.path.join(folder, 'results')
    kind = DUMPS.get(cfg.get('default_scope'), 'DumpResults')
    dump = {'type': kind, 'out_file_path': os.path.join(folder, 'predictions.pkl')}
    cfg.test_evaluator = [*metrics, dump]


def _class_count(cfg):
    """Of the last head, and one more where 0 means no class."""
    model = cfg.model.get('module') or cfg.model
    heads = model.get('decode_head') or {}
    count = (heads[-1] if isinstance(heads, (list, tuple)) else heads).get('num_classes') or 0
    return count + bool((cfg.test_dataloader.get('dataset') or {}).get('reduce_zero_label'))


def draw_predictions(cfg, folder):
    """Have the library's visualisation hook draw every test picture into a folder.

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
    """The metric configs of `test_evaluator`, given as one, as a list, or inside an evaluator."""
    evaluator = cfg.test_evaluator
    metrics = evaluator.get('metrics', evaluator) if isinstance(evaluator, dict) else evaluator
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]

"""What `tools/test.py` can add to a test: test-time augmentation, predictions on disk, images with predictions drawn on them.

Each function changes a config in place, for the library that its `default_scope` names.
"""

import copy
import os

from mmfreq.config.reading import absolute, type_name
from mmfreq.errors import UserError
from mmfreq.preflight import leaf_datasets

MAX_CLASSES = 256  # of a label map of 8 bits
# mmdet's default of `tta_model`
DETECTOR_TTA = {'type': 'DetTTAModel', 'tta_cfg': {'nms': {'type': 'nms', 'iou_threshold': 0.5}, 'max_per_img': 100}}
MASK_HEADS = ('mask_head', 'panoptic_head')  # fields of detectors
DUMP_METRICS = {'mmdet': 'DumpDetResults'}  # the metric that writes predictions, by default_scope; else mmengine's DumpResults


def use_tta(cfg):
    """Wrap the model in `cfg.tta_model`, and replace the test pipelines by `cfg.tta_pipeline`.

    For a detector that lacks them, mmdet's defaults are used: the image and its mirror image, whose boxes NMS merges.

    Raises:
        UserError: the config lacks one of the two, or is for a detector that predicts masks.
    """
    leaves = [leaf for _, leaf in leaf_datasets(cfg.test_dataloader.dataset, '')]
    pipelines = [cfg.get('tta_pipeline')] * len(leaves)
    if cfg.get('default_scope') == 'mmdet':
        cfg.tta_model = cfg.get('tta_model') or DETECTOR_TTA
        _refuse_masks(cfg)
        pipelines = [pipeline or with_flips(leaf.pipeline) for pipeline, leaf in zip(pipelines, leaves)]
    missing = [name for name, found in (('tta_model', cfg.get('tta_model')), ('tta_pipeline', all(pipelines))) if not found]
    if missing:
        raise UserError(
            f'--tta needs tta_model and tta_pipeline; the config {cfg.filename} does not define {" or ".join(missing)}. '
            "Add them (mmseg's `_base_` runtime and dataset of ADE20K have both), or remove --tta."
        )
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    for leaf, pipeline in zip(leaves, pipelines):
        leaf.pipeline = pipeline


def with_flips(pipeline):
    """A test pipeline of mmdet that gives each image as it is and flipped; as in mmdet's tools/test.py, with all other steps kept.

    Raises:
        UserError: its last step is not `PackDetInputs`.
    """
    *steps, pack = pipeline or [{}]
    if type_name(pack.get('type', '')) != 'PackDetInputs':
        raise UserError(
            f'--tta expects a test pipeline that ends with PackDetInputs, to add flips before it; the last step is '
            f'{pack.get("type")!r}. Define tta_pipeline in the config.'
        )
    pack = copy.deepcopy(pack)
    if 'meta_keys' in pack:  # the default ones include those of flips
        pack['meta_keys'] = tuple(dict.fromkeys([*pack['meta_keys'], 'flip', 'flip_direction']))
    flips = [{'type': 'RandomFlip', 'prob': 1.0}, {'type': 'RandomFlip', 'prob': 0.0}]
    return [*copy.deepcopy(steps), {'type': 'TestTimeAug', 'transforms': [flips, [pack]]}]


def _refuse_masks(cfg):
    """Raise if `DetTTAModel` would get masks, which it does not merge."""
    segments = any('segm' in (metric.get('metric') or ()) for metric in metrics_of(cfg))
    if type_name(cfg.tta_model.get('type')) == 'DetTTAModel' and (segments or _has_mask_head(cfg.model)):
        remedy = 'Use the config of a box detector'
        if (cfg.model.get('roi_head') or {}).get('mask_head'):
            remedy = 'Test its boxes alone, with --cfg-options model.roi_head.mask_head=None test_evaluator.metric=bbox'
        raise UserError(
            f'--tta merges boxes only (DetTTAModel of mmdet), but the model of {cfg.filename} predicts masks. {remedy}, or remove '
            '--tta.'
        )


def _has_mask_head(node):
    """Whether a nested model config has a head of masks."""
    if not isinstance(node, dict):
        return isinstance(node, (list, tuple)) and any(map(_has_mask_head, node))
    return any((name in MASK_HEADS and value) or _has_mask_head(value) for name, value in node.items())


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

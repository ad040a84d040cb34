"""A complete small segmentation config: HorNet-micro and a small UPerHead on the generated toy data, for tests of the engine.

It runs in seconds on a CPU and is not meant to reach a score; the toy config in `configs/seg` is.
"""

from pathlib import Path

SIZE = (64, 64)


def toy_segmentor(norm='SyncBN', num_classes=6, in_channels=3):
    """The `model` of the config: all stages of the backbone are used; `norm` is the norm type of the head, 'GN' or a batch norm."""
    norm_cfg = {'type': norm, 'requires_grad': True} | ({'num_groups': 4} if norm == 'GN' else {})
    return {
        'type': 'EncoderDecoder',
        'data_preprocessor': {
            'type': 'SegDataPreProcessor',
            'mean': [123.675, 116.28, 103.53][:in_channels],
            'std': [58.395, 57.12, 57.375][:in_channels],
            'bgr_to_rgb': True,
            'pad_val': 0,
            'seg_pad_val': 255,
            'size': SIZE,
        },
        'backbone': {'type': 'mmfreq.HorNet', 'arch': 'hornet-micro', 'in_channels': in_channels},
        'decode_head': {
            'type': 'UPerHead',
            'in_channels': [16, 32, 64, 128],
            'in_index': [0, 1, 2, 3],
            'pool_scales': (1, 2),
            'channels': 16,
            'dropout_ratio': 0.0,
            'num_classes': num_classes,
            'norm_cfg': norm_cfg,
            'align_corners': False,
            'loss_decode': {'type': 'CrossEntropyLoss', 'use_sigmoid': False, 'loss_weight': 1.0},
        },
        'train_cfg': {},
        'test_cfg': {'mode': 'whole'},
    }


def toy_segmentation_config(data_root, max_iters=2, **changes):
    """The config as a dict; `changes` replace top-level keys."""
    load = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'reduce_zero_label': True}]
    pack = [{'type': 'PackSegInputs'}]
    cfg = {
        'default_scope': 'mmseg',
        'env_cfg': {'mp_cfg': {'mp_start_method': 'fork'}, 'dist_cfg': {'backend': 'nccl'}},
        'model': toy_segmentor(),
        'train_dataloader': _loader(data_root, 'training', load + pack, {'type': 'InfiniteSampler', 'shuffle': True}, 2),
        'val_dataloader': _loader(data_root, 'validation', load + pack, {'type': 'DefaultSampler', 'shuffle': False}, 1),
        'test_dataloader': _loader(data_root, 'validation', load + pack, {'type': 'DefaultSampler', 'shuffle': False}, 1),
        'train_cfg': {'type': 'IterBasedTrainLoop', 'max_iters': max_iters, 'val_interval': max_iters},
        'val_cfg': {'type': 'ValLoop'},
        'test_cfg': {'type': 'TestLoop'},
        'val_evaluator': {'type': 'IoUMetric', 'iou_metrics': ['mIoU']},
        'test_evaluator': {'type': 'IoUMetric', 'iou_metrics': ['mIoU']},
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 1e-3}},
        'default_hooks': {
            'logger': {'type': 'LoggerHook', 'interval': 1, 'log_metric_by_epoch': False},
            'checkpoint': {'type': 'CheckpointHook', 'by_epoch': False, 'interval': max_iters},
            'visualization': {'type': 'SegVisualizationHook'},
        },
        'log_processor': {'by_epoch': False},
        'visualizer': {'type': 'SegLocalVisualizer', 'vis_backends': [{'type': 'LocalVisBackend'}], 'name': 'visualizer'},
        'randomness': {'seed': 0},
        'tta_model': {'type': 'SegTTAModel'},
        'tta_pipeline': [load[0], _flips(load[1], pack[0])],
    }
    return cfg | changes


def write_toy_config(path, data_root, **options):
    """Write the config to a `.py` file, and return the path as a string; options as in `toy_segmentation_config`."""
    cfg = toy_segmentation_config(data_root, **options)
    Path(path).write_text(''.join(f'{name} = {value!r}\n' for name, value in cfg.items()))
    return str(path)


def _loader(root, split, pipeline, sampler, batch_size):
    return {
        'batch_size': batch_size,
        'num_workers': 0,
        'sampler': sampler,
        'dataset': {
            'type': 'mmfreq.ToyShapesDataset',
            'data_root': str(root),
            'data_prefix': {'img_path': f'images/{split}', 'seg_map_path': f'annotations/{split}'},
            'pipeline': pipeline,
        },
    }


def _flips(load_annotations, pack):
    flips = [{'type': 'RandomFlip', 'prob': prob, 'direction': 'horizontal'} for prob in (0.0, 1.0)]
    return {'type': 'TestTimeAug', 'transforms': [flips, [load_annotations], [pack]]}

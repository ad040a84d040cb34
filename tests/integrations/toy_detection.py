"""A small detection config on generated data, for tests with OpenMMLab's datasets, hooks and models.

Mask R-CNN with HorNet-Micro on 6 + 2 images, of which half are upright: (64, 96) and (96, 64).
"""

import json
from pathlib import Path

from mmengine.config import Config

import mmfreq
from mmfreq.datasets.toy import TOY_COCO_METAINFO, write_toy_coco

CONFIG = Path(mmfreq.__file__).parents[1] / 'configs/det/hornet/hornet-micro_mask-rcnn_1xb4-8e_toy-160x192.py'
LONG, SHORT = 96, 64
LOAD = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True}]
LOAD_MASKS = [LOAD[0], {**LOAD[1], 'with_mask': True}]
RESIZE = {'type': 'mmdet.Resize', 'scale': (LONG, SHORT), 'keep_ratio': True}
PACK = {'type': 'PackDetInputs'}
PACK_FLIPPED = {**PACK, 'meta_keys': (
    'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction', 'homography_matrix',
)}  # fmt: skip
PACK_TESTED = {**PACK, 'meta_keys': PACK_FLIPPED['meta_keys'][:5]}


def write_data(root):
    """Write `train.json`, `val.json`, and the training images as `labeled.json` and `unlabeled.json`, which has no annotations."""
    tables = {}
    for offset, (folder, size) in enumerate({'wide': (SHORT, LONG), 'upright': (LONG, SHORT)}.items()):
        write_toy_coco(root / folder, train=3, val=1, size=size, seed=offset)
        for split in ('train', 'val'):
            table = json.loads((root / f'{folder}/annotations/instances_{split}2017.json').read_text())
            merged = tables.setdefault(split, {**table, 'images': [], 'annotations': []})
            for image in table['images']:
                merged['images'].append({**image, 'id': image['id'] + 100 * offset,
                                         'file_name': f'{folder}/{split}2017/{image["file_name"]}'})  # fmt: skip
            for row in table['annotations']:
                number = len(merged['annotations']) + 1
                merged['annotations'].append({**row, 'id': number, 'image_id': row['image_id'] + 100 * offset})
    train = tables['train']
    kept = [train['images'][index] for index in (0, 1, 4, 5)]
    ids = {image['id'] for image in kept}
    tables['labeled'] = {**train, 'images': kept, 'annotations': [row for row in train['annotations'] if row['image_id'] in ids]}
    others = [image for image in train['images'] if image['id'] not in ids]
    tables['unlabeled'] = {'images': others, 'categories': train['categories']}
    for name, table in tables.items():
        (root / f'{name}.json').write_text(json.dumps(table))


def source(root, name='train', pipeline=(*LOAD, PACK), **fields):
    """The config of a dataset of boxes."""
    return {'type': 'CocoDataset', 'data_root': f'{root}/', 'data_prefix': {'img': ''}, 'ann_file': f'{name}.json',
            'metainfo': TOY_COCO_METAINFO, 'pipeline': list(pipeline), **fields}  # fmt: skip


def detection_config(root, dataset=None, masks=False, iterations=4, **fields):
    """The Config: checkpoints after half of the iterations and at the end, no validation."""
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({
        'model.backbone.img_size': 64,
        'model.train_cfg.rpn_proposal.max_per_img': 20, 'model.test_cfg.rpn.max_per_img': 20,
        'model.train_cfg.rcnn.sampler.num': 16, 'model.roi_head.bbox_head.fc_out_channels': 32,
        'default_hooks.checkpoint': {'by_epoch': False, 'interval': iterations // 2, 'max_keep_ckpts': -1},
        'default_hooks.logger.interval': 1, 'log_level': 'ERROR', 'log_processor.by_epoch': False,
    })  # fmt: skip
    if not masks:
        cfg.model.roi_head.mask_head = cfg.model.roi_head.mask_roi_extractor = None
        cfg.model.data_preprocessor.pad_mask = False
    sampler = {'type': 'DefaultSampler', 'shuffle': True}
    cfg.train_dataloader = {'batch_size': 2, 'num_workers': 0, 'sampler': sampler, 'dataset': dataset or source(root)}
    cfg.train_cfg = {'type': 'IterBasedTrainLoop', 'max_iters': iterations, 'val_interval': iterations}
    cfg.param_scheduler = []
    for name in ('val', 'test'):
        cfg[f'{name}_dataloader'] = cfg[f'{name}_cfg'] = cfg[f'{name}_evaluator'] = None
    for name, value in fields.items():
        cfg[name] = value
    return cfg


def add_validation(cfg, root, loop='ValLoop'):
    """Validate and test on `val.json`."""
    steps = [LOAD[0], RESIZE, LOAD[1], PACK_TESTED]
    for name in ('val', 'test'):
        cfg[f'{name}_dataloader'] = {'batch_size': 1, 'num_workers': 0, 'sampler': {'type': 'DefaultSampler', 'shuffle': False},
                                     'dataset': source(root, 'val', steps, test_mode=True)}  # fmt: skip
        cfg[f'{name}_evaluator'] = {'type': 'CocoMetric', 'ann_file': f'{root}/val.json', 'metric': 'bbox'}
    cfg.val_cfg, cfg.test_cfg = {'type': loop}, {'type': 'TestLoop'}

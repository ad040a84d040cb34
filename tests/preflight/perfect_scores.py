"""What `CocoMetric` computes for perfect predictions: 1.0, unless the annotation file is scored wrongly."""

import contextlib
import io
import json

import numpy as np
import torch
from mmdet.evaluation import CocoMetric
from pycocotools import mask as coco_masks


def perfect_scores(table, changed, path):
    """(box mAP, mask mAP) of the predictions that equal `table`, scored with the content `changed`; raises what pycocotools does.

    Args:
        path: file to write `changed` into.
    """
    path.write_text(json.dumps(changed))
    with contextlib.redirect_stdout(io.StringIO()):
        metric = CocoMetric(ann_file=str(path), metric=['bbox', 'segm'])
        metric.dataset_meta = {'classes': tuple(category['name'] for category in table['categories'])}
        ids = [image['id'] for image in changed['images']]
        metric.process({}, [_prediction(table, image, key) for image, key in zip(table['images'], ids)])
        scores = metric.evaluate(len(ids))
    return scores['coco/bbox_mAP'], scores['coco/segm_mAP']


def _prediction(table, image, image_id):
    labels = [category['id'] for category in table['categories']]
    rows = [row for row in table['annotations'] if row['image_id'] == image['id']]
    size = image['height'], image['width']
    boxes = np.array([row['bbox'] for row in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = [coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(row['segmentation'], *size))) for row in rows]
    instances = {
        'bboxes': torch.from_numpy(boxes),
        'labels': torch.tensor([labels.index(row['category_id']) for row in rows], dtype=torch.long),
        'scores': torch.ones(len(rows)),
        'masks': torch.from_numpy(np.array(masks, bool).reshape(-1, *size)),
    }
    return {'img_id': image_id, 'ori_shape': size, 'pred_instances': instances}

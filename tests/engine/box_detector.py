"""A detector without weights, and images for it: gray rectangles, whose brightness is their class."""

import json

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData

CLASSES = ('dark', 'gray', 'bright')
LEVELS = (80, 160, 240)  # of the classes
SIZE = 40  # of the images


@MODELS.register_module(force=True)
class BoxDetector(BaseModel):
    """Finds the rectangles in the left part of an image, whose share of the width is `sees`, except those of the class `misses`.

    With `masks` it has masks, too; those of the class `empty` are empty. With `finds=False` it finds nothing.
    """

    def __init__(self, sees=1.0, misses=None, finds=True, masks=False, empty=None, **kwargs):
        super().__init__(**kwargs)
        self.sees, self.misses, self.finds, self.masks, self.empty = sees, misses, finds, masks, empty
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs, data_samples, mode):
        for image, sample in zip(inputs, data_samples):
            boxes, labels = self.find(image[0].cpu().numpy())
            width, height = sample.scale_factor
            boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / torch.tensor([width, height, width, height])
            scores = torch.full((len(labels),), 0.9)
            found = InstanceData(bboxes=boxes, scores=scores, labels=torch.tensor(labels, dtype=torch.long))
            if self.masks:
                found.masks = torch.zeros(len(labels), SIZE, SIZE, dtype=torch.bool)
                for mask, label, (x1, y1, x2, y2) in zip(found.masks, labels, boxes.long().tolist()):
                    mask[y1:y2, x1:x2] = label != self.empty
            sample.pred_instances = found
        return data_samples

    def find(self, image):
        boxes, labels = [], []
        for label, level in enumerate(LEVELS):
            found = cv2.connectedComponentsWithStats((abs(image - level) < 5).astype(np.uint8))[2][1:]
            for x, y, w, h, _ in found:
                if self.finds and label != self.misses and x + w <= self.sees * image.shape[1]:
                    boxes.append([x, y, x + w, y + h])
                    labels.append(label)
        return boxes, labels


def write_images(folder, boxes):
    """Write `boxes`, for each image a list of (label, x, y, width, height), as images and `val.json`."""
    (folder / 'images').mkdir()
    images, annotations = [], []
    for number, each in enumerate(boxes):
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        for label, x, y, w, h in each:
            image[y : y + h, x : x + w] = LEVELS[label]
            row = {'id': len(annotations) + 1, 'image_id': number, 'category_id': label + 1, 'iscrowd': 0}
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append({**row, 'bbox': [x, y, w, h], 'area': w * h, 'segmentation': [polygon]})
        cv2.imwrite(str(folder / 'images' / f'{number}.png'), image)
        images.append({'id': number, 'file_name': f'{number}.png', 'width': SIZE, 'height': SIZE})
    categories = [{'id': label + 1, 'name': name} for label, name in enumerate(CLASSES)]
    (folder / 'val.json').write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': categories}))


def write_config(folder, **changes):
    """Write `boxes.py`, which tests a `BoxDetector` on the images of `write_images`, and its checkpoint; returns their paths."""
    pipeline = [
        {'type': 'LoadImageFromFile'},
        {'type': 'Resize', 'scale': (2 * SIZE, 2 * SIZE), 'keep_ratio': True, 'interpolation': 'nearest'},
        {'type': 'LoadAnnotations', 'with_bbox': True},
        {'type': 'PackDetInputs', 'meta_keys': ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')},
    ]
    dataset = {'type': 'CocoDataset', 'data_root': str(folder), 'ann_file': 'val.json', 'data_prefix': {'img': 'images'}}
    cfg = {
        'default_scope': 'mmdet',
        'model': {'type': 'mmdet.BoxDetector', 'data_preprocessor': {'type': 'DetDataPreprocessor'}},
        'test_dataloader': {
            **{'batch_size': 2, 'num_workers': 0, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
            'dataset': {**dataset, 'metainfo': {'classes': CLASSES}, 'test_mode': True, 'pipeline': pipeline},
        },
        'test_evaluator': {'type': 'CocoMetric', 'ann_file': str(folder / 'val.json'), 'metric': 'bbox'},
        'test_cfg': {'type': 'TestLoop'},
        'visualizer': {'type': 'DetLocalVisualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]},
    }
    Config({**cfg, **changes}).dump(folder / 'boxes.py')
    torch.save({'state_dict': {'scale': torch.ones(())}, 'meta': {}}, folder / 'boxes.pth')
    return folder / 'boxes.py', folder / 'boxes.pth'

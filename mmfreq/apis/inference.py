"""A config and a checkpoint as a function from a picture to a prediction, for segmentors and detectors.

Legend: H W the picture as read; ids are the model's classes, 0..K-1.
"""

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import DATASETS

from mmfreq.apis.loading import TASKS, build_model, dataset_meta_of, innermost_dataset, read_config
from mmfreq.errors import DataError, UserError
from mmfreq.speed.optimizing import holds_backbone, optimize

DRAWN = ('segmentation', 'detection')


class Predictor:
    """A trained model with its test pipeline; `task` is 'segmentation' or 'detection', `classes` and `palette` are lists."""

    def __init__(self, cfg, checkpoint, device='cpu', plain=True):
        """Builds the model of `cfg` (a Config), loads `checkpoint` (a file) and moves it to `device`.

        Unless `plain`, predictions come from `mmfreq.optimize(model)`; `loaded` is the model as the file has it, on the CPU then.

        Raises UserError for configs of other tasks, CheckpointError for a file that cannot be read and CheckpointMismatchError
        for one that does not fill the model. What the file holds beyond that is ignored.
        """
        scope = cfg.get('default_scope')
        if TASKS.get(scope) not in DRAWN:
            raise ValueError(f'default_scope of the config is {scope!r}; inference is written for {" and ".join(DRAWN)} configs')
        self.scope, self.task, self.cfg = scope, TASKS[scope], cfg
        self.loaded, meta = build_model(cfg, checkpoint)
        self.model = self.loaded if plain or not holds_backbone(self.loaded) else optimize(self.loaded)
        self.model.to(device)
        self._dataset_cfg = innermost_dataset(cfg.test_dataloader.dataset)
        self._dataset = DATASETS.build({**self._dataset_cfg, 'lazy_init': True, 'pipeline': []})
        self.classes, self.palette = _names_and_colours(self._dataset.metainfo, meta)
        self._pipeline = Compose(_array_pipeline(self._dataset_cfg['pipeline'], scope))

    def __call__(self, image):
        """What the model says of `image` (H, W, 3) uint8 BGR, at its size.

        Segmentation: ids (H, W), uint8 or, beyond 256 classes, uint16. Detection: a dict of numpy arrays, the best first: boxes
        (M, 4) x1 y1 x2 y2 in pixels, labels (M,), scores (M,), masks (M, H, W) bool or None.
        """
        packed = self._pipeline({'img': image, 'img_id': 0})
        with torch.no_grad():
            result = self.model.test_step({'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]})[0]
        if self.task == 'segmentation':
            return result.pred_sem_seg.data[0].cpu().numpy().astype(id_dtype(len(self.classes)))
        found = result.pred_instances[result.pred_instances.scores.argsort(descending=True)].cpu()
        arrays = {'boxes': found.bboxes, 'labels': found.labels, 'scores': found.scores}
        arrays = {name: values.numpy() for name, values in arrays.items()}
        return arrays | {'masks': np.asarray(found.masks) if 'masks' in found else None}

    def truth(self, folder, stem):
        """The label map (H, W) for a picture, from `folder`, read as the config's test data set reads it (its suffix, its
        `reduce_zero_label`); 255 is ignored. Raises DataError if there is none or it has several channels."""
        path = folder / (stem + self._dataset.seg_map_suffix)
        if not path.is_file():
            raise DataError(f'no truth for {stem}: expected {path}')
        steps = [step for step in self._dataset_cfg['pipeline'] if step['type'].split('.')[-1] == 'LoadAnnotations']
        load = Compose(steps[:1] or [{'type': 'LoadAnnotations'}])
        fields = {'label_map': self._dataset.label_map, 'reduce_zero_label': self._dataset.reduce_zero_label}
        labels = load({'seg_map_path': str(path), 'seg_fields': [], **fields})['gt_seg_map']
        if labels.ndim != 2:
            raise DataError(f'{path} is read as {labels.shape}; expected one channel of class ids')
        return labels


def id_dtype(classes):
    """The smallest of the dtypes of an index mask that holds the ids of so many classes."""
    return np.uint8 if classes <= 256 else np.uint16


def load_predictor(config, checkpoint, device='cpu', cfg_options=None, plain=True):
    """The Predictor of a config file, with `cfg_options` merged in. Errors as those of Predictor."""
    cfg = read_config(config, cfg_options)
    if str(device).startswith('cuda') and not torch.cuda.is_available():
        raise UserError(f'device is {device}, but torch sees no CUDA device; use cpu')
    return Predictor(cfg, checkpoint, device, plain)


def _array_pipeline(steps, scope):
    """The test pipeline for a picture in memory: it starts from an array and loads no annotations."""
    kinds = [step['type'].split('.')[-1] for step in steps]
    if kinds[:1] != ['LoadImageFromFile']:
        raise UserError(f'the test pipeline is {kinds}; expected it to begin with LoadImageFromFile')
    kept = [step for step, kind in zip(steps, kinds) if kind not in ('LoadImageFromFile', 'LoadAnnotations')]
    return [{'type': f'{scope}.LoadImageFromNDArray'}, *kept]


def _names_and_colours(metainfo, meta):
    """Classes and colours the model was trained with, from its checkpoint, else from the config's data set."""
    trained = dataset_meta_of(meta)
    classes = list(trained.get('classes') or metainfo.get('classes') or ())
    if not classes:
        raise UserError('neither the checkpoint nor the test data set names the classes; set metainfo=dict(classes=...)')
    colours = trained.get('palette') or metainfo.get('palette') or []
    if isinstance(colours, str) or len(colours) < len(classes):  # mmdet allows palettes by name: then fixed arbitrary colours
        colours = np.random.default_rng(0).integers(40, 256, (len(classes), 3))
    return classes, [tuple(int(value) for value in colour) for colour in colours]

"""Inference with segmentors and detectors: a config and a checkpoint as a function from an image to its prediction.

Legend: H W the size of the image; ids are the model's classes, 0..K-1.
"""

import logging

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import DATASETS

from mmfreq.apis.loading import TASKS, build_model, classes_of, dataset_meta_of, innermost_dataset, palette_of, read_config
from mmfreq.apis.preprocessing import split_pipeline
from mmfreq.apis.reading import ImageReader, check_channels
from mmfreq.apis.slide import segment_by_windows, windows_of, without_resizing
from mmfreq.config.image_channels import image_channels
from mmfreq.errors import DataError, UserError
from mmfreq.log import log_once
from mmfreq.speed.optimizing import has_backbone, optimize

SUPPORTED_TASKS = ('segmentation', 'detection')
LARGE = 4 * 2**30  # bytes of logits at the image's size from which a warning names the windows


def load_predictor(config, checkpoint, device='cpu', cfg_options=None, plain=True, slide=None):
    """The `Predictor` of a config file and a checkpoint.

    Args:
        cfg_options: overrides of the config, by dotted key.
        plain, slide: see `Predictor`.

    Raises:
        UserError: CUDA is asked for and not available; and the errors of `Predictor`.

    Example:
        >>> predict = load_predictor('CONFIG.py', 'CHECKPOINT.pth')  # doctest: +SKIP
        >>> label_map = predict(predict.read('photo.jpg'))  # doctest: +SKIP
        >>> label_maps = predict.predict_batch([predict.read(file) for file in files])  # doctest: +SKIP
    """
    cfg = read_config(config, cfg_options)
    if str(device).startswith('cuda') and not torch.cuda.is_available():
        raise UserError(f'device is {device}, but torch sees no CUDA device: use cpu.')
    return Predictor(cfg, checkpoint, device, plain, slide)


class Predictor:
    """A trained model with its test pipeline.

    Args:
        cfg: a Config of a segmentor or detector.
        checkpoint: file with every weight of the model; other tensors in it are ignored.
        plain: run the model as loaded; if False, its copy by `mmfreq.optimize`.
        slide: run a segmentor over windows of the image at its own resolution, with memory for one row of windows: () for crop
            and stride of the config (see `windows_of`), (CROP,) or (CROP, STRIDE) in pixels. None runs it as the config defines.

    Attributes:
        task: 'segmentation' or 'detection'.
        loaded: the model as loaded; on the CPU unless it is the one that runs.
        classes, palette: lists of names and of (R, G, B).
        in_channels: of the images.
        read: reads an image file as the test pipeline does, (H, W) or (H, W, C): an `ImageReader`.
        windows: the `Windows` of `slide`, or None.

    Raises:
        ValueError: the config is of another task.
        UserError: the test pipeline does not begin with a transform that loads one image, there are no class names, `slide` is
            invalid, or given for a detector.
        CheckpointError: the file cannot be read.
        CheckpointMismatchError: the file lacks weights of the model.
    """

    def __init__(self, cfg, checkpoint, device='cpu', plain=True, slide=None):
        scope = cfg.get('default_scope')
        if TASKS.get(scope) not in SUPPORTED_TASKS:
            raise ValueError(f'Expected a config for {" or ".join(SUPPORTED_TASKS)}; its default_scope is {scope!r}.')
        self.task = TASKS[scope]
        self.loaded, meta = build_model(cfg, checkpoint)
        self.model = self.loaded if plain or not has_backbone(self.loaded) else optimize(self.loaded)
        self.model.to(device)
        self._dataset_cfg = innermost_dataset(cfg.test_dataloader.dataset)
        self._dataset = DATASETS.build({**self._dataset_cfg, 'lazy_init': True, 'pipeline': []})
        metainfo, trained = self._dataset.metainfo, dataset_meta_of(meta)
        self.classes, self.palette = list(classes_of(metainfo, trained)), list(palette_of(metainfo, trained))
        if not self.classes:
            raise UserError('Neither the checkpoint nor the test dataset has class names: set metainfo=dict(classes=...).')
        loader, *steps = split_pipeline(self._dataset_cfg['pipeline'])
        self.in_channels = image_channels(cfg)
        self.read = ImageReader(loader, scope, self.in_channels)
        self.windows = None if slide is None else windows_of(cfg, self.loaded, slide)
        steps = without_resizing(steps) if self.windows else steps
        self._pipeline = Compose([{'type': f'{scope}.LoadImageFromNDArray'}, *steps])
        self._warned = False

    def shown(self, image):
        """An image that was read, as (H, W, 3) uint8 RGB for drawing; see `ImageReader.shown`."""
        return self.read.shown(image)

    def __call__(self, image):
        """Predict for an image at its own size: what `read` returns, or for models of color images (H, W, 3) uint8 in BGR order.

        Returns:
            Segmentation: ids (H, W), uint8 or, beyond 256 classes, uint16. Detection: a dict of arrays, best first: `boxes`
            (M, 4) as x1 y1 x2 y2 in pixels, `labels` (M,), `scores` (M,), `masks` (M, H, W) of bool or None.

        Raises:
            InputError: the image has another number of channels than the model takes.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images):
        """Predict for several images, of any sizes; returns a list of what calling the predictor with each one returns.

        Images that have the same size before and after the test pipeline share a forward pass. Others do not: a batch of several
        sizes would be padded, and the global filters of a backbone depend on the padding. So results equal those of single images
        up to the rounding of floating-point numbers. Windows (`slide`) run one by one.
        """
        if self.windows:
            return [self._slide(image) for image in images]
        self._warn_if_large(images)
        packed = [self._packed(image) for image in images]
        groups = {}
        for number, item in enumerate(packed):
            groups.setdefault((tuple(item['inputs'].shape), images[number].shape), []).append(number)
        predictions = {}
        for numbers in groups.values():
            predictions.update(zip(numbers, self._forward([packed[number] for number in numbers])))
        return [predictions[number] for number in range(len(images))]

    def _forward(self, packed):
        data = {key: [item[key] for item in packed] for key in ('inputs', 'data_samples')}
        with torch.no_grad():
            return [self._arrays(result) for result in self.model.test_step(data)]

    def _arrays(self, result):
        if self.task == 'segmentation':
            return result.pred_sem_seg.data[0].cpu().numpy().astype(id_dtype(len(self.classes)))
        found = result.pred_instances[result.pred_instances.scores.argsort(descending=True)].cpu()
        arrays = {'boxes': found.bboxes.numpy(), 'labels': found.labels.numpy(), 'scores': found.scores.numpy()}
        return arrays | {'masks': np.asarray(found.masks) if 'masks' in found else None}

    def _packed(self, image):
        """The image after the test pipeline, as a dict of `inputs` (C, H, W) and `data_samples`."""
        packed = self._pipeline({'img': image, 'img_id': 0})
        check_channels(len(packed['inputs']), self.in_channels, 'of the image', self.read.step)
        return packed

    def _slide(self, image):
        inputs = self._packed(image)['inputs']
        if inputs.shape[1:] != image.shape[:2]:
            raise UserError(
                f'Windows need a test pipeline that keeps the size of the image, and this one makes {tuple(inputs.shape[1:])} of '
                f'{image.shape[:2]} (H, W). Remove the step that changes it from test_dataloader.dataset.pipeline.'
            )
        return segment_by_windows(self.model, inputs, self.windows, id_dtype(len(self.classes)))

    def _warn_if_large(self, images):
        """Log once that a segmentor will need much memory, before the process can be killed for it."""
        size = 4 * len(self.classes) * sum(image.shape[0] * image.shape[1] for image in images)
        if self.task == 'segmentation' and size > LARGE and not self._warned:
            self._warned = True
            height, width = images[0].shape[:2]
            log_once(
                f'The logits of {len(images)} image(s) of {width} x {height} pixels need {size / 2**30:.1f} GiB '
                f'({len(self.classes)} classes, float32), and mmseg holds several copies of them. '
                'infer.py --slide, or load_predictor(slide=()), needs memory for one row of windows.',
                logging.WARNING,
            )

    def label_map_path(self, folder, stem):
        """The path of an image's label map in a folder, with the suffix of the config's test dataset."""
        return folder / (stem + self._dataset.seg_map_suffix)

    def load_label_map(self, folder, stem):
        """Read the label map (H, W) of an image from a folder, as the config's test dataset does; 255 is ignored.

        Raises:
            DataError: the file does not exist, or has several channels.
        """
        path = self.label_map_path(folder, stem)
        if not path.is_file():
            raise DataError(f'no truth for {stem}: the label map {path} does not exist')
        steps = [step for step in self._dataset_cfg['pipeline'] if step['type'].split('.')[-1] == 'LoadAnnotations']
        load = Compose(steps[:1] or [{'type': 'LoadAnnotations'}])
        fields = {'label_map': self._dataset.label_map, 'reduce_zero_label': self._dataset.reduce_zero_label}
        labels = load({'seg_map_path': str(path), 'seg_fields': [], **fields})['gt_seg_map']
        if labels.ndim != 2:
            raise DataError(f'expected one channel of class ids in {path}; its shape is {labels.shape}')
        return labels


def id_dtype(num_classes):
    """The smallest dtype of an index mask that holds the ids of `num_classes` classes."""
    return np.uint8 if num_classes <= 256 else np.uint16

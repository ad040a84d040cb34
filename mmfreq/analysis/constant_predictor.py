"""The best predictor that assigns the same class to every pixel. A trained model has to score higher.

Legend: K classes; scores are fractions (0..1), where mmseg logs percentages.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ConstantPredictor:
    """The best constant prediction and its scores.

    Attributes:
        best_class: its index.
        miou: its mean IoU.
        per_class_iou: `(K,)`; NaN for a class that occurs neither in the labels nor in the prediction.
        frequencies: `(K,)`, fractions of the labeled pixels.
    """

    best_class: int
    miou: float
    per_class_iou: np.ndarray
    frequencies: np.ndarray


def constant_predictor(labels, num_classes=None, ignore_index=255):
    """Find the best constant prediction for label maps.

    Scores as mmseg's IoUMetric does: counts over all images, mean over the classes with a non-empty union.

    Args:
        labels: an iterable of integer arrays of any shape with ids 0..K-1 or `ignore_index`, or an mmseg dataset, of which only
            the annotations are read.
        num_classes: by default that of the dataset.

    Raises:
        ValueError: an id is out of range, or no pixel is labeled.
    """
    if hasattr(labels, 'get_data_info'):
        num_classes = num_classes or len(labels.metainfo['classes'])
        labels = dataset_labels(labels)
    if not num_classes:
        raise ValueError(f'num_classes is {num_classes!r}. Give the number of classes of these label maps.')
    counts = np.zeros(num_classes, np.int64)
    for number, array in enumerate(labels):
        array = np.asarray(array)
        labeled = array[array != ignore_index]
        if labeled.size and (labeled.min() < 0 or labeled.max() >= num_classes):
            raise ValueError(
                f'Label map {number} has ids {labeled.min()}..{labeled.max()}, expected 0..{num_classes - 1} or {ignore_index} '
                '(ignored). Check num_classes and reduce_zero_label.'
            )
        counts += np.bincount(labeled.ravel().astype(np.int64), minlength=num_classes)
    if not counts.sum():
        raise ValueError(f'There is no labeled pixel: every pixel is {ignore_index} (ignored), or there is no image.')
    frequencies = counts / counts.sum()
    # the union of the constant class is all pixels, so its IoU is its frequency; every other class that occurs has IoU 0
    best = int(counts.argmax())
    ious = np.where(counts > 0, 0.0, np.nan)
    ious[best] = frequencies[best]
    return ConstantPredictor(best, float(np.nanmean(ious)), ious, frequencies)


def dataset_labels(dataset):
    """Yield the label maps (H, W) of an mmseg dataset as its LoadAnnotations step returns them, without loading any image."""
    steps = [step for step in dataset.pipeline.transforms if type(step).__name__ == 'LoadAnnotations']
    if not steps:
        names = [type(step).__name__ for step in dataset.pipeline.transforms]
        raise ValueError(f'The pipeline of {type(dataset).__name__} has no LoadAnnotations step, only {names}. Add it.')
    for index in range(len(dataset)):
        yield steps[0](dataset.get_data_info(index))['gt_seg_map']

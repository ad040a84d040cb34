"""The best predictor that gives every pixel the same class: the score that a trained model has to beat.

Legend: K classes; scores are shares (0..1), where mmseg's logs print per cent.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ConstantPredictor:
    """best_class: the index; miou: its mean IoU; per_class_iou (K,): NaN for a class that occurs neither in the truth nor in
    the prediction; frequencies (K,): shares of the labelled pixels."""

    best_class: int
    miou: float
    per_class_iou: np.ndarray
    frequencies: np.ndarray


def constant_predictor(labels, num_classes=None, ignore_index=255):
    """The best constant prediction for label maps, scored as mmseg's IoUMetric does (counts over all pictures, mean over the
    classes with a non-empty union).

    `labels`: an iterable of integer arrays (any shape) with ids 0..K-1 or `ignore_index`, or an mmseg data set, whose
    annotations alone are read; then `num_classes` defaults to its number of classes.

    Raises ValueError where there is no labelled pixel or an id is out of range.
    """
    if hasattr(labels, 'get_data_info'):
        num_classes = num_classes or len(labels.metainfo['classes'])
        labels = dataset_labels(labels)
    if not num_classes:
        raise ValueError(f'num_classes is {num_classes!r}; give the number of classes of these label maps')
    counts = np.zeros(num_classes, np.int64)
    for number, array in enumerate(labels):
        array = np.asarray(array)
        kept = array[array != ignore_index]
        if kept.size and (kept.min() < 0 or kept.max() >= num_classes):
            raise ValueError(
                f'label map {number} holds ids {kept.min()}..{kept.max()}, expected 0..{num_classes - 1} or {ignore_index} '
                '(ignored); check num_classes and reduce_zero_label'
            )
        counts += np.bincount(kept.ravel().astype(np.int64), minlength=num_classes)
    if not counts.sum():
        raise ValueError(f'no labelled pixel: every pixel is {ignore_index} (ignored), or there is no picture')
    frequencies = counts / counts.sum()
    # the union of the constant class is every pixel, so its IoU is its share; every other class that occurs scores zero
    best = int(counts.argmax())
    ious = np.where(counts > 0, 0.0, np.nan)
    ious[best] = frequencies[best]
    return ConstantPredictor(best, float(np.nanmean(ious)), ious, frequencies)


def dataset_labels(dataset):
    """Yields the label maps (H, W) of an mmseg data set as its own LoadAnnotations gives them (`reduce_zero_label` and label
    maps applied); no picture is read and nothing is resized."""
    steps = [step for step in dataset.pipeline.transforms if type(step).__name__ == 'LoadAnnotations']
    if not steps:
        names = [type(step).__name__ for step in dataset.pipeline.transforms]
        raise ValueError(f'the pipeline of {type(dataset).__name__} has no LoadAnnotations step, only {names}; add it')
    for index in range(len(dataset)):
        yield steps[0](dataset.get_data_info(index))['gt_seg_map']

"""What is written for a prediction: which kinds of results, drawings, label maps as PNG, and reports for JSON.

Images are uint8 RGB. A prediction is what a `Predictor` returns: ids (H, W), or a dict of boxes, labels, scores and masks.
"""

import json
import os
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmfreq.analysis.drawing import DRAWN_SCORE, check_opacity, draw_detections, overlay
from mmfreq.errors import UserError

KINDS = {'segmentation': ('overlay', 'mask', 'json', 'panel'), 'detection': ('overlay', 'json')}


class PredictionError(RuntimeError):
    """The model failed on an image; the message names the image, and the cause is chained."""


@dataclass
class Written:
    """The files written for one image or video, its number of frames, and a description of the problem if there was one."""

    image: Path
    files: list = field(default_factory=list)
    problem: str | None = None
    frames: int = 1


@dataclass(frozen=True)
class Results:
    """Which results are written, and how they are drawn.

    Attributes:
        of_image, of_video: kinds of `KINDS`.
        opacity: of colors over the image, 0 to 1.
        score_thr: lowest score of the detections that are drawn.
    """

    of_image: tuple[str, ...]
    of_video: tuple[str, ...]
    opacity: float = 0.5
    score_thr: float = DRAWN_SCORE


def choose_results(task, save: Iterable[str] | None = None, with_truth=False, opacity=0.5, score_thr=DRAWN_SCORE) -> Results:
    """The `Results` for `save`, kinds of results, or by default: overlays, for images also label maps (segmentation) and panels
    (with label maps to compare), or JSON (detection).

    Raises ValueError for a kind that the task does not have, and for an opacity outside 0..1.
    """
    check_opacity(opacity)
    kinds = KINDS[task]
    if with_truth and task != 'segmentation':
        raise ValueError('A truth folder is for segmentation configs, and this config is for detection. Use tools/test.py.')
    if save is None:
        default = ('overlay', 'mask', *(['panel'] if with_truth else [])) if task == 'segmentation' else kinds
        return Results(default, ('overlay',) if task == 'segmentation' else kinds, opacity, score_thr)
    unknown = [kind for kind in save if kind not in kinds]
    if unknown or not save:
        raise ValueError(f'The results of {task} are {", ".join(kinds)}; got {", ".join(unknown) or "none"}. Change --save.')
    if with_truth and 'panel' not in save:
        raise ValueError(f'Label maps are compared in panels, and --save is {" ".join(save)}. Add panel, or remove --truth.')
    chosen = tuple(kind for kind in kinds if kind in save)
    return Results(chosen, tuple(kind for kind in chosen if kind != 'panel'), opacity, score_thr)


def predict_each(predictor, images, names):
    """The prediction of each image, or the ValueError by which the model rejects it, for example because it is too small.

    If a batch fails, its images run one by one, so that errors name the image.

    Raises:
        UserError: a GPU does not have enough memory.
        PredictionError: the model failed on an image.
    """
    try:
        return [predictor(images[0])] if len(images) == 1 else predictor.predict_batch(images)
    except torch.cuda.OutOfMemoryError as error:
        remedy = 'Use a smaller --batch-size' if len(images) > 1 else 'Use --slide (segmentation), a smaller image, or --device cpu'
        raise UserError(f'{names[0]}: the GPU has not enough memory for {len(images)} image(s). {remedy}.') from error
    except Exception as error:
        if len(images) > 1:
            return [predict_each(predictor, [image], [name])[0] for image, name in zip(images, names)]
        if isinstance(error, ValueError):
            return [error]
        if isinstance(error, UserError):
            raise
        raise PredictionError(f'{names[0]}: {error}') from error


def draw(predictor, image, prediction, results):
    """The overlay of a prediction: colors over the pixels, or the detections with scores from `score_thr`."""
    if predictor.task == 'segmentation':
        return overlay(image, prediction, predictor.palette, results.opacity)
    shown = prediction['scores'] >= results.score_thr
    parts = {name: values if values is None else values[shown] for name, values in prediction.items()}
    return draw_detections(image, **parts, classes=predictor.classes, palette=predictor.palette, opacity=results.opacity)


def report_of(predictor, prediction):
    """A prediction as a dict for JSON: pixels and share of each class, the largest first; or all detections, the best first."""
    report = _segments if predictor.task == 'segmentation' else _detections
    return report(prediction, predictor.classes)


def _segments(ids, classes):
    counts = np.bincount(ids.ravel())
    labels = sorted(np.flatnonzero(counts).tolist(), key=lambda label: -counts[label])
    pixels = [int(counts[label]) for label in labels]
    names = [classes[label] for label in labels]
    return {'labels': labels, 'names': names, 'pixels': pixels, 'shares': [round(count / ids.size, 6) for count in pixels]}


def _detections(found, classes):
    from mmdet.structures.mask import encode_mask_results

    report = {'boxes': found['boxes'].round(2).tolist(), 'labels': found['labels'].tolist()}
    report |= {'names': [classes[label] for label in found['labels']], 'scores': found['scores'].round(4).tolist()}
    if found['masks'] is not None:
        codes = encode_mask_results(found['masks'])
        report['masks'] = [{'size': code['size'], 'counts': code['counts'].decode()} for code in codes]
    return report


@contextmanager
def writing(path):
    """Raise a UserError that names the file if it cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror or error}. Check the free disk space and --out.') from error


def save_image(pixels, path):
    """Save (H, W, 3) uint8 as PNG; returns the path."""
    with writing(path):
        Image.fromarray(pixels).save(path)
    return path


def save_label_map(ids, palette, path):
    """Save ids (H, W) as PNG: 8 bits with the palette, or for uint16 16 bits without colors; returns the path."""
    image = Image.fromarray(ids)
    if ids.dtype == np.uint8:
        image.putpalette(np.asarray(palette, np.uint8).tobytes())  # turns mode L into P
    with writing(path):
        image.save(path)
    return path


def save_json(report, path):
    """Save a report; returns the path."""
    with writing(path):
        path.write_text(json.dumps(report))
    return path


def make_folder(folder):
    """Create a folder for results. Raises UserError if that is not possible."""
    with writing(folder):
        os.makedirs(folder, exist_ok=True)

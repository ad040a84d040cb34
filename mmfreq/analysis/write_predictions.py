"""Predictions as files: index masks, overlays and panels for segmentation, overlays and JSON for detection."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mmfreq.analysis.detections import draw_detections
from mmfreq.analysis.panels import legend_of, overlay, panel
from mmfreq.analysis.picture_files import output_names, read_picture, refuse_to_overwrite
from mmfreq.compat.file_kind import file_kind, shown

MAX_CLASSES = 256  # of an index mask of 8 bits


class PredictionError(RuntimeError):
    """The model failed on a picture; the message names it, and the cause is chained."""


@dataclass
class Written:
    """What became of one picture: the files made of it, and the problem in words if there was one."""

    picture: Path
    files: list = field(default_factory=list)
    problem: str | None = None


def write_predictions(predictor, pictures, out, truth=None, opacity=0.5, score_thr=0.3):
    """Predicts each picture and yields a Written for it; a lazy generator, except that arguments are checked at once.

    Segmentation: `NAME.png` (ids, 8 bits, with the palette), `NAME_overlay.png`, and with `truth` (a folder of label maps)
    `NAME_panel.png`. Detection: `NAME_overlay.png` (scores from `score_thr`) and `NAME.json` (all of them). NAME is the stem.
    A picture that cannot be read, that the model refuses (ValueError) or that has no truth is a problem in its Written; what else
    the model raises comes as PredictionError.
    """
    out = Path(out)
    if truth is not None and predictor.task != 'segmentation':
        raise ValueError('a truth folder is for segmentation configs; this one detects, test it with tools/test.py')
    if truth is not None and not Path(truth).is_dir():
        raise ValueError(f'truth folder {truth} does not exist')
    if len(predictor.classes) > MAX_CLASSES:
        raise ValueError(f'{len(predictor.classes)} classes; index masks of 8 bits hold {MAX_CLASSES}')
    if not 0 <= opacity <= 1:
        raise ValueError(f'opacity is {opacity}; it must be between 0 and 1')
    names = output_names(pictures)
    refuse_to_overwrite(pictures, names, out)
    out.mkdir(parents=True, exist_ok=True)
    return (_one(predictor, path, out / name, truth, opacity, score_thr) for path, name in zip(pictures, names))


def _one(predictor, path, target, truth, opacity, score_thr):
    image = read_picture(path)
    if image is None:
        kind = file_kind(path)
        kind += ', damaged or too large' if kind.endswith('picture') else ''
        return Written(path, problem=f'{shown(path)} cannot be read as a picture: it is {kind}')
    where = f'{shown(path)}, {image.shape[1]} x {image.shape[0]} pixels'
    try:
        prediction = predictor(image)
    except ValueError as error:  # the model refuses this picture, as one that is too small
        return Written(path, problem=f'{where}: {error}')
    except Exception as error:
        raise PredictionError(f'{where}: {error}') from error
    image = np.ascontiguousarray(image[..., ::-1])
    if predictor.task == 'detection':
        return Written(path, _write_detections(predictor, image, prediction, path, target, opacity, score_thr))
    written = Written(path, _write_mask(predictor, image, prediction, target, opacity))
    if truth is not None:
        try:
            labels = predictor.truth(Path(truth), path.stem)
            written.files.append(_write_panel(predictor, image, labels, prediction, target, opacity))
        except ValueError as error:  # among them the DataError of a missing file
            written.problem = str(error)
    return written


def _write_mask(predictor, image, ids, target, opacity):
    mask = Image.fromarray(ids)
    mask.putpalette(np.asarray(predictor.palette, np.uint8).tobytes())  # turns mode L into P
    drawn = Image.fromarray(overlay(image, ids, predictor.palette, opacity))
    return [_save(mask, target, '.png'), _save(drawn, target, '_overlay.png')]


def _write_panel(predictor, image, labels, ids, target, opacity):
    if labels.shape != ids.shape:
        raise ValueError(f'truth of {target.name} is {labels.shape}, but its picture is {ids.shape} (H, W)')
    palette = predictor.palette
    columns = [('image', image), ('truth', overlay(image, labels, palette, opacity))]
    columns.append(('prediction', overlay(image, ids, palette, opacity)))
    drawn = panel(columns, legend_of([labels, ids], predictor.classes, palette))
    return _save(Image.fromarray(drawn), target, '_panel.png')


def _write_detections(predictor, image, found, path, target, opacity, score_thr):
    from mmdet.structures.mask import encode_mask_results

    masks = found['masks']
    report = {'picture': path.name, 'size': list(image.shape[:2]), 'boxes': found['boxes'].round(2).tolist()}
    report |= {'labels': found['labels'].tolist(), 'names': [predictor.classes[label] for label in found['labels']]}
    report |= {'scores': found['scores'].round(4).tolist()}
    if masks is not None:
        codes = encode_mask_results(masks)
        report['masks'] = [{'size': code['size'], 'counts': code['counts'].decode()} for code in codes]
    text = target.with_name(target.name + '.json')
    text.write_text(json.dumps(report))
    shown = found['scores'] >= score_thr
    parts = {name: found[name][shown] for name in ('boxes', 'labels', 'scores')}
    parts['masks'] = None if masks is None else masks[shown]
    drawn = draw_detections(image, **parts, classes=predictor.classes, palette=predictor.palette, opacity=opacity)
    return [_save(Image.fromarray(drawn), target, '_overlay.png'), text]


def _save(picture, target, suffix):
    path = target.with_name(target.name + suffix)
    picture.save(path)
    return path

"""Pictures of label maps: labels laid over an image, and titled columns with a legend of the classes.

Everything is uint8 RGB. A palette is a sequence of K (r, g, b); pixels of `ignore_index` are hatched in black and white.
numpy and Pillow only, no state.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmfreq.analysis.images import output_names, read_image, refuse_to_overwrite
from mmfreq.compat.file_kind import file_kind, printable_path

PAPER, INK, FAINT = (255, 255, 255), (25, 25, 25), (190, 190, 190)
GAP = 10  # pixels between the parts of a panel
MIN_COLUMN = 256  # pixels; smaller pictures are enlarged by a whole factor, so that titles fit and pixels stay sharp


def overlay(image, labels, palette, opacity=0.5, ignore_index=255):
    """`image` with the colour of its label over each pixel: (H, W, 3) uint8. `opacity` 0 shows the image, 1 the labels.

    Shape: image (H, W, 3) uint8, labels (H, W) integers.

    Raises ValueError where shapes differ or a label has no colour.
    """
    image, labels = np.asarray(image), np.asarray(labels)
    if image.dtype != np.uint8 or image.shape != (*labels.shape, 3):
        raise ValueError(
            f'image {image.shape} {image.dtype} and labels {labels.shape} do not fit; expected (H, W, 3) uint8 and (H, W)'
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f'opacity is {opacity}; it must be between 0 (the image alone) and 1 (the labels alone)')
    ignored = labels == ignore_index
    kept = labels[~ignored]
    if kept.size and not 0 <= kept.min() <= kept.max() < len(palette):
        raise ValueError(
            f'labels {kept.min()}..{kept.max()} but {len(palette)} colours; give a palette with a colour for each class, '
            f'or mark pixels without a class as {ignore_index}'
        )
    colours = np.asarray(palette, np.float32)[np.where(ignored, 0, labels)]
    colours[ignored] = hatch(labels.shape)[ignored]
    mixed = image * (1 - opacity) + colours * opacity
    return mixed.round().astype(np.uint8)


def hatch(shape, period=8):
    """Diagonal black and white stripes (H, W, 3) uint8: the mark of ignored pixels."""
    ys, xs = np.indices(shape)
    return np.where((ys + xs)[..., None] % period < period // 2, 0, 255).astype(np.uint8).repeat(3, axis=-1)


def legend_of(label_maps, classes, palette, ignore_index=255):
    """The legend [(name, colour)] of the classes that occur in any map, by id; colour None stands for ignored pixels."""
    found = sorted(set(np.concatenate([np.unique(labels) for labels in label_maps]).tolist()))
    entries = [(classes[label], tuple(palette[label])) for label in found if label != ignore_index]
    return entries + [('not labelled', None)] * (ignore_index in found)


def panel(columns, legend=()):
    """Draws titled pictures side by side over a legend.

    `columns`: [(title, image)], images (H, W, 3) uint8 of one size; `legend`: [(name, colour)], colour None for ignored pixels.
    Returns (h, w, 3) uint8. Images keep their pixels, or are enlarged by a whole factor where they are small.
    """
    images = [np.asarray(image) for _, image in columns]
    shapes = {(image.shape, image.dtype.name) for image in images}
    if len(shapes) != 1 or images[0].ndim != 3 or images[0].shape[2] != 3 or images[0].dtype != np.uint8:
        raise ValueError(f'columns hold {sorted(shapes)}; expected at least one, all (H, W, 3) uint8 of one size')
    height, width = images[0].shape[:2]
    factor = max(1, -(-MIN_COLUMN // width))
    height, width = height * factor, width * factor
    font = ImageFont.load_default(size=min(max(width // 20, 15), 40))
    line = sum(font.getmetrics())
    total = len(images) * (width + GAP) + GAP
    rows = _legend_rows(legend, font, total - 2 * GAP)
    top = GAP + line + GAP // 2
    bottom = top + height + GAP + len(rows) * (line + GAP // 2)
    sheet = Image.new('RGB', (total, bottom + (GAP // 2 if rows else 0)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, ((title, _), image) in enumerate(zip(columns, images)):
        left = GAP + number * (width + GAP)
        draw.text((left, GAP), _fitted(title, font, width), fill=INK, font=font)
        sheet.paste(Image.fromarray(image.repeat(factor, axis=0).repeat(factor, axis=1)), (left, top))
    for number, row in enumerate(rows):
        _draw_legend_row(sheet, draw, row, top + height + GAP + number * (line + GAP // 2), font)
    return np.asarray(sheet)


def _legend_rows(legend, font, room):
    """Breaks the entries into rows of at most `room` pixels; an entry is a square, its name and a space."""
    side, rows, used = sum(font.getmetrics()), [], 0
    for name, colour in legend:
        name = _fitted(name, font, room - 2 * side)
        width = round(1.3 * side + font.getlength(name) + side)
        if not rows or used + width > room + side:  # the last entry needs no space after it
            rows.append([])
            used = 0
        rows[-1].append((name, colour, used))
        used += width
    return rows


def _draw_legend_row(sheet, draw, row, top, font):
    side = sum(font.getmetrics())
    inset = side // 8
    for name, colour, offset in row:
        left, box = GAP + offset, side - 2 * inset
        swatch = hatch((box, box)) if colour is None else np.full((box, box, 3), colour, np.uint8)
        sheet.paste(Image.fromarray(swatch), (left, top + inset))
        draw.rectangle((left, top + inset, left + box - 1, top + inset + box - 1), outline=FAINT)
        draw.text((left + round(1.3 * side) - inset, top), name, fill=INK, font=font)


def _fitted(text, font, width):
    """`text`, shortened with three dots to what fits `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + '...') > width:
        text = text[:-1]
    return text + '...'


# Pictures of detections: boxes, masks, names and scores drawn over an image. numpy and Pillow only, no state.


def draw_detections(image, boxes, labels, scores, classes, palette, masks=None, opacity=0.5):
    """`image` with its detections, the best one on top: (H, W, 3) uint8 RGB.

    Shape: image (H, W, 3) uint8, boxes (M, 4) as x1 y1 x2 y2 in pixels, labels (M,), scores (M,), masks (M, H, W) bool or None.
    Which detections are worth drawing is the caller's choice.
    """
    counts = {len(boxes), len(labels), len(scores), len(boxes if masks is None else masks)}
    if len(counts) != 1:
        raise ValueError(f'boxes, labels, scores and masks have {sorted(counts)} entries; expected as many of each')
    order = np.argsort(np.asarray(scores), kind='stable')
    canvas = np.asarray(image).astype(np.float32)
    if masks is not None:
        for index in order:
            mask = np.asarray(masks[index], bool)
            canvas[mask] = canvas[mask] * (1 - opacity) + np.asarray(palette[int(labels[index])], np.float32) * opacity
    sheet = Image.fromarray(canvas.round().astype(np.uint8))
    draw = ImageDraw.Draw(sheet)
    side = min(sheet.size)
    font, stroke = ImageFont.load_default(size=min(max(side // 28, 11), 28)), max(2, side // 200)
    for index in order:
        colour = tuple(int(value) for value in palette[int(labels[index])])
        x1, y1, x2, y2 = (float(value) for value in boxes[index])
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=stroke)
        _tag(draw, (x1, y1), f'{classes[int(labels[index])]} {float(scores[index]):.2f}', colour, font, sheet.size)
    return np.asarray(sheet)


def _tag(draw, corner, text, colour, font, size):
    """A filled tag above the corner of a box, moved inside the picture; black or white text, whichever reads better."""
    width, height = round(font.getlength(text)) + 4, sum(font.getmetrics())
    left = min(max(corner[0], 0), max(size[0] - width, 0))
    top = max(corner[1] - height, 0)
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    luminance = np.dot(colour, (0.299, 0.587, 0.114))
    draw.text((left + 2, top), text, fill=(0, 0, 0) if luminance > 140 else (255, 255, 255), font=font)


# Predictions as files: index masks, overlays and panels for segmentation, overlays and JSON for detection.


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
    image = read_image(path)
    if image is None:
        kind = file_kind(path)
        kind += ', damaged or too large' if kind.endswith('picture') else ''
        return Written(path, problem=f'{printable_path(path)} cannot be read as a picture: it is {kind}')
    where = f'{printable_path(path)}, {image.shape[1]} x {image.shape[0]} pixels'
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
    printable_path = found['scores'] >= score_thr
    parts = {name: found[name][printable_path] for name in ('boxes', 'labels', 'scores')}
    parts['masks'] = None if masks is None else masks[printable_path]
    drawn = draw_detections(image, **parts, classes=predictor.classes, palette=predictor.palette, opacity=opacity)
    return [_save(Image.fromarray(drawn), target, '_overlay.png'), text]


def _save(picture, target, suffix):
    path = target.with_name(target.name + suffix)
    picture.save(path)
    return path

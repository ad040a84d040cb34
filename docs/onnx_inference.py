"""Runs a file written by tools/export_onnx.py on images, with onnxruntime, numpy and Pillow 10.1 or newer: without PyTorch.

    python onnx_inference.py model.onnx image.jpg FOLDER [--out predictions] [--score-thr 0.5] [--json]

For each image it writes NAME_pred.png: for a segmentor the classes over the image with a legend, for a detector boxes and masks,
for a classifier the five best classes. For feature maps it prints the shapes. All it needs to know is in the metadata of the ONNX
file (docs/deployment.md). To use parts of it in a program, begin with `Model`:

    model = Model('model.onnx')
    prediction = model(model.read('image.jpg'))

Legend: H W the size of the image, h w that of the input, K classes, M detections; sizes are (height, width).
"""

import argparse
import colorsys
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont, ImageOps

JSON_KEYS = ('mean', 'std', 'classes', 'palette', 'preprocessing', 'thresholds')
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.npy')
TEXT, BACKGROUND = (25, 25, 25), (255, 255, 255)


class Model:
    """An exported file and its metadata.

    Raises:
        ValueError: the file does not have the metadata of mmfreq.
    """

    def __init__(self, path, provider='CPUExecutionProvider'):
        self.session = onnxruntime.InferenceSession(str(path), providers=[provider])
        metadata = self.session.get_modelmeta().custom_metadata_map
        missing = [key for key in ('task', 'output', 'channels', 'pixels', *JSON_KEYS) if key not in metadata]
        if missing:
            raise ValueError(f'its metadata does not have {", ".join(missing)}: write it with tools/export_onnx.py of this version')
        self.task, self.output = metadata['task'], metadata['output']
        self.channels = metadata['channels']  # RGB, BGR, gray, or bands for other numbers of channels
        self.keeps_values = metadata['pixels'] == 'as in the file'  # otherwise pixels are 0..255
        values = {key: json.loads(metadata[key]) for key in JSON_KEYS}
        self.mean, self.std = (np.array(values[key], np.float32) for key in ('mean', 'std'))
        self.classes, self.preprocessing, self.thresholds = (values[key] for key in ('classes', 'preprocessing', 'thresholds'))
        self.notes = json.loads(metadata.get('notes', '[]'))
        self.palette = values['palette'] or class_colors(max(len(self.classes), 256))

    def class_name(self, index):
        return self.classes[index] if index < len(self.classes) else f'class {index}'

    def read(self, path):
        """The pixels (H, W, C) of an image file, or of an array (H, W) or (H, W, C) in a .npy file.

        Raises:
            ValueError: the model does not take its channels or range of pixels.
        """
        if Path(path).suffix == '.npy':
            pixels = np.load(path)
        else:
            with Image.open(path) as image:
                pixels = np.asarray(self.convert(image))
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        if pixels.shape[2] != len(self.mean):
            raise ValueError(f'the model takes {len(self.mean)} channels, got {pixels.shape[2]}')
        return pixels

    def convert(self, image):
        """An image of Pillow, upright, in the channels of the model: RGB or gray; alpha is dropped."""
        array = f'save the pixels as in training, an array (H, W, {len(self.mean)}), in a .npy file'
        if self.channels == 'bands':
            raise ValueError(f'the model takes {len(self.mean)} channels, which Pillow does not read: {array}')
        mode = 'L' if self.channels == 'gray' else 'RGB'
        if self.keeps_values:
            expected = (
                image.mode.startswith(('L', 'I', 'F')) if mode == 'L' else image.mode == mode and ';16' not in str(image.tile)
            )
            if not expected or len(image.getbands()) != len(self.mean):
                raise ValueError(
                    f'the model takes the values of the file, and an image of mode {image.mode} may lose them: {array}'
                )
            return image
        if image.mode.startswith(('I', 'F')):
            raise ValueError(f'expected 8 bits per channel, got an image of mode {image.mode}: convert it, or {array}')
        return ImageOps.exif_transpose(image).convert(mode)

    def prepare(self, pixels):
        """The input (1, C, h, w) for the pixels of an image, and its size (h, w) without padding."""
        steps = self.preprocessing
        if steps['undescribed']:
            raise ValueError(f'the file does not describe these steps of its preprocessing: {", ".join(steps["undescribed"])}')
        for step in steps['resize']:
            pixels = resize(pixels, new_size(step, *pixels.shape[:2]), step['interpolation'], step['antialias'])
        pixels = center_crop(pixels, steps['crop']) if steps['crop'] else pixels
        pixels = pixels[..., ::-1] if self.channels == 'BGR' else pixels
        values = (pixels.astype(np.float32) - self.mean) / self.std
        images = (pad(values, **steps['pad']) if steps['pad'] else values).transpose(2, 0, 1)[None]
        entry = self.session.get_inputs()[0]
        if any(isinstance(side, int) and side != found for side, found in zip(entry.shape, images.shape)):
            raise ValueError(f'the file takes images {entry.shape}, and the preprocessing makes {list(images.shape)} of this one')
        if min(images.shape[2:]) < 32:
            raise ValueError(
                f'the file takes sides of at least 32 pixels, and the preprocessing makes {list(images.shape)} of this one'
            )
        return np.ascontiguousarray(images, np.float16 if entry.type == 'tensor(float16)' else np.float32), pixels.shape[:2]

    def run(self, pixels):
        """The outputs of the file by name, and the size (h, w) of the input without padding."""
        images, size = self.prepare(pixels)
        names = [entry.name for entry in self.session.get_inputs()]
        inputs = dict(zip(names, (images, np.array(size, np.int64))))  # detectors with boxes have the second input
        return dict(zip([entry.name for entry in self.session.get_outputs()], self.session.run(None, inputs))), size

    def __call__(self, pixels):
        """The prediction for the pixels (H, W, C) of an image, in its coordinates: a dict.

        Classifiers: `scores` (K,). Segmentors: `labels` (H, W). Detectors with boxes: see `detections`. Others: outputs by name.
        """
        outputs, size = self.run(pixels)
        first, full = next(iter(outputs.values())), pixels.shape[:2]
        if self.task == 'classification':
            return {'scores': softmax(first[0])}
        if self.output == 'labels':
            return {'labels': nearest(first[0, : size[0], : size[1]], full)}
        if self.task == 'segmentation':
            return {'labels': best_classes(first[0, :, : size[0], : size[1]], full, self.thresholds.get('score', 0.5))}
        return detections(outputs, size, full, self.thresholds.get('mask', 0.5)) if 'boxes' in outputs else outputs


# From pixels to the input


def new_size(step, height, width):
    """The size after a resize step of the metadata."""
    rule = step['rule']
    if rule == 'stretch':
        return tuple(step['size'])
    if rule == 'multiple':
        rounded = math.floor if step['down'] else math.ceil
        return tuple(max(rounded(side / step['divisor']), 1) * step['divisor'] for side in (height, width))
    if rule == 'cover':
        h, w = step['size']
        return (h, int(h * width / height)) if h * width >= w * height else (int(w * height / width), w)
    if rule == 'within':
        factor = min(step['long'] / max(height, width), step['short'] / min(height, width))
    elif rule == 'fit':
        factor = min(step['size'][0] / height, step['size'][1] / width)
    else:
        raise ValueError(
            f'the rule {rule} of its preprocessing is unknown: take onnx_inference.py of the version that wrote the file'
        )
    return tuple(max(int(side * factor + 0.5), 1) for side in (height, width))


def resize(pixels, size, interpolation='bilinear', antialias=False):
    """Pixels (H, W, ...) at another size: as OpenCV does it, or with `antialias`, which needs 8-bit pixels, as Pillow does it."""
    if tuple(size) == pixels.shape[:2]:
        return pixels
    if antialias:
        if pixels.dtype != np.uint8:
            raise ValueError(f'expected 8 bits per channel, got {pixels.dtype}')
        method, image = Image.Resampling[interpolation.upper()], Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
        return np.asarray(image.resize(size[::-1], method)).reshape(*size, -1)
    if pixels.dtype == np.uint8 and interpolation == 'bilinear':
        return resize_in_integers(pixels, size)
    values = pixels.astype(np.float32)
    for axis, (old, new) in enumerate(zip(pixels.shape, size)):
        values = sample(values, (np.arange(new) + 0.5) * (old / new) - 0.5, axis, interpolation)
    if np.issubdtype(pixels.dtype, np.integer):
        limits = np.iinfo(pixels.dtype)
        values = values.round().clip(limits.min, limits.max).astype(pixels.dtype)
    return values


def resize_in_integers(pixels, size):
    """8-bit pixels (H, W, C), bilinear as in OpenCV: weights are multiples of 1 / 2048, and sums are truncated."""

    def neighbors(old, new):
        positions = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
        first = np.floor(positions).astype(int)
        weights = [np.rint(2048 * t).astype(np.int32)[:, None] for t in (1 - (positions - first), positions - first)]
        return first.clip(0, old - 1), (first + 1).clip(0, old - 1), *weights

    values = pixels.astype(np.int32)
    left, right, a, b = neighbors(pixels.shape[1], size[1])
    values = (values[:, left] * a + values[:, right] * b) >> 4
    above, below, a, b = neighbors(pixels.shape[0], size[0])
    values = (values[above] * a[..., None] >> 16) + (values[below] * b[..., None] >> 16)
    return ((values + 2) >> 2).astype(np.uint8)


def sample(values, positions, axis, interpolation='bilinear', zeros_outside=False):
    """Interpolated values at real positions on an axis; outside of it those of the border, or zeros."""
    first = np.floor(positions).astype(int)
    t = positions - first
    if interpolation == 'bilinear':
        weights = {0: 1 - t, 1: t}
    elif interpolation == 'bicubic':  # the kernel of Keys with a = -0.75
        far, near = (lambda d: -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)), (lambda d: 1.25 * d**3 - 2.25 * d**2 + 1)
        weights = {-1: far(1 + t), 0: near(t), 1: near(1 - t), 2: far(2 - t)}
    else:
        raise ValueError(f'the interpolation {interpolation} is not implemented here: add it to `sample`')
    total, length = 0.0, values.shape[axis]
    for offset, weight in weights.items():
        index = first + offset
        weight = np.where((index >= 0) & (index < length), weight, 0) if zeros_outside else weight
        shape = [-1 if k == axis else 1 for k in range(values.ndim)]
        total = total + values.take(index.clip(0, length - 1), axis) * weight.astype(np.float32).reshape(shape)
    return total


def center_crop(pixels, size):
    top, left = (max(round((old - new) / 2), 0) for old, new in zip(pixels.shape, size))
    return pixels[top : top + size[0], left : left + size[1]]


def pad(values, value, divisor=1, size=(0, 0)):
    """Values (h, w, C) padded on the right and below to a size, or to multiples of a divisor."""
    sides = [max(math.ceil(old / divisor) * divisor, least) for old, least in zip(values.shape, size)]
    padded = np.empty((*sides, values.shape[2]), np.float32)
    padded[:] = value
    padded[: values.shape[0], : values.shape[1]] = values
    return padded


# From the outputs to the prediction


def softmax(logits):
    scores = np.exp(logits.astype(np.float64) - logits.max())
    return scores / scores.sum()


def nearest(labels, size):
    rows, columns = (((np.arange(new) + 0.5) * (old / new)).astype(int) for old, new in zip(labels.shape, size))
    return labels[rows[:, None], columns]


def best_classes(logits, size, threshold):
    """The class of each pixel (H, W): logits (K, h, w) are interpolated first, one class at a time to save memory.

    With one channel the classes are 0, and 1 where its sigmoid is above the threshold.
    """
    if len(logits) == 1:
        return (1 / (1 + np.exp(-resize(logits[0].astype(np.float32), size))) > threshold).astype(np.int64)
    labels, best = np.zeros(size, np.int64), resize(logits[0].astype(np.float32), size)
    for k, channel in enumerate(logits[1:], 1):
        values = resize(channel.astype(np.float32), size)
        above = values > best
        labels[above], best[above] = k, values[above]
    return labels


def detections(outputs, size, full, mask_threshold):
    """Detections in the coordinates of the image, best first: a dict.

    `boxes` (M, 4) as x1 y1 x2 y2 in pixels, `labels` (M,), `scores` (M,), and `masks`, None or for each box the part of the mask
    around it and its corner: (top, left, array of bool).
    """
    count = int(outputs['count'])
    boxes = outputs['boxes'][:count] / np.tile([size[1] / full[1], size[0] / full[0]], 2)
    masks = None
    if 'masks' in outputs:
        masks = [paste(mask, box, full, mask_threshold) for mask, box in zip(outputs['masks'][:count], boxes)]
    return {'boxes': boxes, 'labels': outputs['labels'][:count], 'scores': outputs['scores'][:count], 'masks': masks}


def paste(mask, box, size, threshold):
    """Where a mask (28, 28), stretched to its box, is above the threshold: (top, left, array of bool), a part of an image."""
    start = np.maximum(np.floor(box[:2]) - 1, 0).astype(int)
    stop = np.minimum(np.ceil(box[2:]) + 1, size[::-1]).astype(int)
    values = mask.astype(np.float32)
    for axis, k in ((0, 1), (1, 0)):
        length = max(box[k + 2] - box[k], 1e-6)
        positions = (np.arange(start[k], max(stop[k], start[k])) + 0.5 - box[k]) / length * mask.shape[axis] - 0.5
        values = sample(values, positions, axis, zeros_outside=True)
    return start[1], start[0], values >= threshold


# Drawings


def class_colors(count):
    """RGB of each class: hues at golden-ratio steps, alternating between two brightnesses."""
    colors = [colorsys.hsv_to_rgb(0.618 * k % 1, 0.75, 0.95 if k % 2 else 0.65) for k in range(count)]
    return (255 * np.array(colors)).astype(np.uint8).tolist()


def shown(pixels):
    """Pixels as an RGB image; those that are not 8-bit colors are scaled from their own range."""
    pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., [0, 0, 0]]
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
        pixels = (255 * (pixels - pixels.min()) / max(np.ptp(pixels), 1e-9)).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))


def font_for(size):
    return ImageFont.load_default(size=min(max(min(size) // 28, 12), 28))


def beside(image, rows):
    """An image with rows of text on its right, each a text and a color or None."""
    font = font_for(image.size)
    line = sum(font.getmetrics()) + 6
    width = math.ceil(max(font.getlength(text) for text, _ in rows)) + 2 * line
    sheet = Image.new('RGB', (image.width + width, max(image.height, line * len(rows) + line)), BACKGROUND)
    sheet.paste(image)
    draw = ImageDraw.Draw(sheet)
    for number, (text, color) in enumerate(rows):
        left, top = image.width + line // 3, line // 2 + number * line
        if color is not None:
            draw.rectangle((left, top + 2, left + line - 6, top + line - 4), tuple(color))
        draw.text((left + line, top), text, TEXT, font)
    return sheet


def draw_segmentation(image, labels, model):
    """The classes over the image, with a legend of those in it, and the lines of the legend."""
    colors = np.array(model.palette, np.uint8)[labels % len(model.palette)]
    areas = np.bincount(labels.ravel()) / labels.size
    found = [k for k in np.argsort(-areas) if areas[k]]
    lines = [f'{100 * areas[k]:5.1f} %  {model.class_name(k)}' for k in found]
    legend = [(line, model.palette[k % len(model.palette)]) for k, line in zip(found, lines)]
    return beside(Image.blend(image, Image.fromarray(colors), 0.5), legend), lines


def draw_classes(image, scores, model):
    """The image with the five best classes, and their lines."""
    lines = [f'{100 * scores[k]:5.1f} %  {model.class_name(k)}' for k in np.argsort(-scores)[:5]]
    return beside(image, [(line, None) for line in lines]), lines


def draw_detections(image, found, model):
    """The image with boxes, names, scores and masks, the best on top, and a line for each."""
    canvas, lines = np.array(image, np.float32), []
    order = range(len(found['boxes']))[::-1]
    colors = [tuple(model.palette[label % len(model.palette)]) for label in found['labels']]
    for index in order if found['masks'] is not None else ():
        top, left, mask = found['masks'][index]
        part = canvas[top : top + mask.shape[0], left : left + mask.shape[1]]
        part[mask] = 0.5 * part[mask] + 0.5 * np.array(colors[index])
    sheet = Image.fromarray(canvas.round().astype(np.uint8))
    draw, font = ImageDraw.Draw(sheet), font_for(sheet.size)
    for index in order:
        draw.rectangle(tuple(found['boxes'][index]), outline=colors[index], width=max(min(sheet.size) // 200, 2))
    for index in order:
        name, score = model.class_name(found['labels'][index]), found['scores'][index]
        text, height = f'{name} {score:.2f}', sum(font.getmetrics())
        left = max(min(found['boxes'][index][0], sheet.width - font.getlength(text) - 4), 0)
        top = max(found['boxes'][index][1] - height, 0)
        draw.rectangle((left, top, left + font.getlength(text) + 4, top + height), colors[index])
        draw.text((left + 2, top), text, BACKGROUND if sum(colors[index]) < 420 else TEXT, font)
        lines.insert(0, f'{score:.2f}  {name}  ' + ' '.join(f'{value:.1f}' for value in found['boxes'][index]))
    return sheet, lines


# Command line


def process(model, path, out, score_threshold, as_json):
    """Predict for an image file; write the drawing as `out`, with .png, and print the result."""
    pixels = model.read(path)
    found, image = model(pixels), shown(pixels)
    if 'boxes' in found:
        kept = np.flatnonzero(found['scores'] >= score_threshold)
        masks = None if found['masks'] is None else [found['masks'][k] for k in kept]
        found = {**{key: found[key][kept] for key in ('boxes', 'labels', 'scores')}, 'masks': masks}
        drawing, lines = draw_detections(image, found, model)
        lines = lines or [f'no box with a score of at least {score_threshold:g}']
        report = {key: found[key].tolist() for key in ('boxes', 'labels', 'scores')}
    elif 'scores' in found:
        drawing, lines = draw_classes(image, found['scores'], model)
        report = {'scores': found['scores'].tolist()}
    elif 'labels' in found:
        drawing, lines = draw_segmentation(image, found['labels'], model)
        areas = np.bincount(found['labels'].ravel(), minlength=len(model.classes)) / found['labels'].size
        report = {'areas': areas.tolist()}
    else:
        drawing, report, lines = None, {}, [f'{name} {values.shape}' for name, values in found.items()]
    print(f'{path}:', *lines, sep='\n  ')
    if drawing is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    drawing.save(f'{out}.png')
    if as_json:
        Path(f'{out}.json').write_text(json.dumps({'image': str(path), 'classes': model.classes, **report}), encoding='utf-8')


def image_files(paths):
    """The image files given, and those in the folders given."""
    for path in paths:
        inside = sorted(each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else [path]
        yield from inside


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=Path, help='an ONNX file')
    parser.add_argument('images', type=Path, nargs='+', help='image files, arrays in .npy files, or folders of them')
    parser.add_argument(
        '--out', type=Path, default=Path('predictions'), help='folder of NAME_pred.png and .json (default: %(default)s)'
    )
    parser.add_argument('--score-thr', type=float, help='lowest score of drawn boxes (default: the one in the file)')
    parser.add_argument(
        '--provider', default='CPUExecutionProvider', help='of onnxruntime, such as CUDAExecutionProvider (default: %(default)s)'
    )
    parser.add_argument(
        '--json', action='store_true', help='also write NAME_pred.json: boxes, scores, or the areas of classes in 0..1'
    )
    args = parser.parse_args()
    if args.provider not in onnxruntime.get_available_providers():
        parser.error(f'--provider is one of {", ".join(onnxruntime.get_available_providers())}')
    try:
        model = Model(args.model, args.provider)
    except Exception as error:  # onnxruntime raises many types for files that it cannot load
        raise SystemExit(f'error: {args.model}: {error}') from None
    for note in model.notes:
        print(f'note: {note}', file=sys.stderr)
    threshold = model.thresholds.get('score', 0.3) if args.score_thr is None else args.score_thr
    failed, written = 0, set()
    for path in image_files(args.images):
        name = f'{path.stem}_pred'
        name = name if name not in written else f'{name}_{len(written)}'
        written.add(name)
        try:
            process(model, path, args.out / name, threshold, args.json)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            failed += 1
            print(f'error: {path}: {error}', file=sys.stderr)
    if not written:
        parser.error('the folders have no images')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()

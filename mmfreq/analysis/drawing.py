"""Predictions as drawings: overlays and panels for segmentation, boxes and masks for detection.

All images are uint8 RGB. A palette is a sequence of K (r, g, b); ignored pixels are hatched in black and white.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

IGNORE_INDEX = 255
DRAWN_SCORE = 0.3  # lowest score of the detections that are drawn, by default
PERIOD = 8  # pixels of the hatching
ROWS = 32 * PERIOD  # that are blended together: an overlay of a large image needs little more memory than the image
BACKGROUND, TEXT, OUTLINE = (255, 255, 255), (25, 25, 25), (190, 190, 190)
GAP = 10  # pixels between the parts of a panel
MIN_COLUMN = 256  # pixels; smaller images are enlarged by an integer factor, so that titles fit and pixels stay sharp


def check_opacity(opacity):
    """Raise a ValueError for an opacity outside 0..1."""
    if not 0 <= opacity <= 1:
        raise ValueError(f'opacity is {opacity}; it must be between 0 (only the image) and 1 (only the labels).')


def ignored_id(num_classes):
    """The value of ignored pixels in label maps: 255, and with more than 255 classes, where that is a class, 65535."""
    return IGNORE_INDEX if num_classes <= IGNORE_INDEX else np.iinfo(np.uint16).max


def overlay(image, labels, palette, opacity=0.5):
    """`image` with the color of its label blended over each pixel: (H, W, 3) uint8. `opacity` 0 shows the image, 1 the labels.

    Shape: image (H, W, 3) uint8, labels (H, W) integers. Labels of `ignored_id(len(palette))` are ignored pixels.

    Raises ValueError if the shapes differ or a label has no color.
    """
    image, labels = np.asarray(image), np.asarray(labels)
    if image.dtype != np.uint8 or image.shape != (*labels.shape, 3):
        raise ValueError(
            f'Expected an image (H, W, 3) uint8 and labels (H, W), got {image.shape} {image.dtype} and {labels.shape}.'
        )
    check_opacity(opacity)
    ignore = ignored_id(len(palette))
    labeled = labels[labels != ignore]
    if labeled.size and not 0 <= labeled.min() <= labeled.max() < len(palette):
        raise ValueError(
            f'The labels are {labeled.min()}..{labeled.max()}, but the palette has {len(palette)} colors. Give a color for each '
            f'class, or mark pixels without a class as {ignore}.'
        )
    palette, blended = np.asarray(palette, np.float32), np.empty_like(image)
    for top in range(0, len(image), ROWS):
        rows = slice(top, top + ROWS)
        ignored = labels[rows] == ignore
        colors = palette[np.where(ignored, 0, labels[rows])]
        if ignored.any():
            colors[ignored] = hatch(ignored.shape)[ignored]
        blended[rows] = (image[rows] * (1 - opacity) + colors * opacity).round()
    return blended


def hatch(shape):
    """Diagonal black and white stripes (H, W, 3) uint8, which mark ignored pixels."""
    ys, xs = np.indices(shape)
    return np.where((ys + xs)[..., None] % PERIOD < PERIOD // 2, 0, 255).astype(np.uint8).repeat(3, axis=-1)


def legend_of(label_maps, classes, palette):
    """The legend [(name, color)] of the classes that occur in any map, by id; color None stands for ignored pixels."""
    ids = sorted(set(np.concatenate([np.unique(labels) for labels in label_maps]).tolist()))
    ignore = ignored_id(len(palette))
    entries = [(classes[label], tuple(palette[label])) for label in ids if label != ignore]
    return entries + [('not labeled', None)] * (ignore in ids)


def panel(columns, legend=()):
    """Draw titled images side by side above a legend: (h, w, 3) uint8.

    Args:
        columns: [(title, image)], images (H, W, 3) uint8 of one size; small ones are enlarged by an integer factor.
        legend: [(name, color)], color None for ignored pixels.
    """
    images = [np.asarray(image) for _, image in columns]
    shapes = {(image.shape, image.dtype.name) for image in images}
    if len(shapes) != 1 or images[0].ndim != 3 or images[0].shape[2] != 3 or images[0].dtype != np.uint8:
        raise ValueError(f'Expected at least one column, all images (H, W, 3) uint8 of one size; got {sorted(shapes)}.')
    height, width = images[0].shape[:2]
    factor = max(1, -(-MIN_COLUMN // width))
    height, width = height * factor, width * factor
    font = ImageFont.load_default(size=min(max(width // 20, 15), 40))
    line = sum(font.getmetrics())
    total = len(images) * (width + GAP) + GAP
    rows = _legend_rows(legend, font, total - 2 * GAP)
    top = GAP + line + GAP // 2
    bottom = top + height + GAP + len(rows) * (line + GAP // 2)
    sheet = Image.new('RGB', (total, bottom + (GAP // 2 if rows else 0)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, ((title, _), image) in enumerate(zip(columns, images)):
        left = GAP + number * (width + GAP)
        draw.text((left, GAP), _shortened(title, font, width), fill=TEXT, font=font)
        sheet.paste(Image.fromarray(image.repeat(factor, axis=0).repeat(factor, axis=1)), (left, top))
    for number, row in enumerate(rows):
        _draw_legend_row(sheet, draw, row, top + height + GAP + number * (line + GAP // 2), font)
    return np.asarray(sheet)


def _legend_rows(legend, font, max_width):
    """Wrap the entries into rows of at most `max_width` pixels; an entry is a square, its name and a space."""
    side, rows, used = sum(font.getmetrics()), [], 0
    for name, color in legend:
        name = _shortened(name, font, max_width - 2 * side)
        width = round(1.3 * side + font.getlength(name) + side)
        if not rows or used + width > max_width + side:  # the last entry needs no space after it
            rows.append([])
            used = 0
        rows[-1].append((name, color, used))
        used += width
    return rows


def _draw_legend_row(sheet, draw, row, top, font):
    side = sum(font.getmetrics())
    inset = side // 8
    for name, color, offset in row:
        left, box = GAP + offset, side - 2 * inset
        swatch = hatch((box, box)) if color is None else np.full((box, box, 3), color, np.uint8)
        sheet.paste(Image.fromarray(swatch), (left, top + inset))
        draw.rectangle((left, top + inset, left + box - 1, top + inset + box - 1), outline=OUTLINE)
        draw.text((left + round(1.3 * side) - inset, top), name, fill=TEXT, font=font)


def _shortened(text, font, width):
    """`text`, with an ellipsis if it is longer than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + '...') > width:
        text = text[:-1]
    return text + '...'


def draw_detections(image, boxes, labels, scores, classes, palette, masks=None, opacity=0.5):
    """`image` with all given detections, the best one on top: (H, W, 3) uint8 RGB.

    Shape: image (H, W, 3) uint8, boxes (M, 4) as x1 y1 x2 y2 in pixels, labels (M,), scores (M,), masks (M, H, W) bool or None.
    """
    counts = {len(boxes), len(labels), len(scores), len(boxes if masks is None else masks)}
    if len(counts) != 1:
        raise ValueError(f'Expected boxes, labels, scores and masks of one length, got the lengths {sorted(counts)}.')
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
        color = tuple(int(value) for value in palette[int(labels[index])])
        x1, y1, x2, y2 = (float(value) for value in boxes[index])
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=stroke)
        _draw_tag(draw, (x1, y1), f'{classes[int(labels[index])]} {float(scores[index]):.2f}', color, font, sheet.size)
    return np.asarray(sheet)


def _draw_tag(draw, corner, text, color, font, size):
    """Draw a filled tag above the corner of a box, moved inside the image; black or white text, whichever has more contrast."""
    width, height = round(font.getlength(text)) + 4, sum(font.getmetrics())
    left = min(max(corner[0], 0), max(size[0] - width, 0))
    top = max(corner[1] - height, 0)
    draw.rectangle((left, top, left + width, top + height), fill=color)
    luminance = np.dot(color, (0.299, 0.587, 0.114))
    draw.text((left + 2, top), text, fill=(0, 0, 0) if luminance > 140 else (255, 255, 255), font=font)

"""Pictures of label maps: labels laid over an image, and titled columns with a legend of the classes.

Everything is uint8 RGB. A palette is a sequence of K (r, g, b); pixels of `ignore_index` are hatched in black and white.
numpy and Pillow only, no state.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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

"""Pictures of detections: boxes, masks, names and scores drawn over an image. numpy and Pillow only, no state."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont


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

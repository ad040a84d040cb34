"""Toy scenes: shapes of several kinds before a textured ground, one picture with its labels and instances.

The kinds share hues in pairs (disk and ring, square and stripes, triangle and ground), so colour narrows the answer down and
only form or texture settles it. numpy and OpenCV only.

Legend: H W picture, K classes; u v an object's own coordinates, in which it fits the unit disk.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np


@dataclass(frozen=True)
class ToyClass:
    """One row of the table: its name, its colour in pictures of labels, and how it is drawn.

    `inside(u, v)` says which points belong to it (None: everything that nothing else covers); `hue` is the centre of its hues
    in degrees; `reach` scales its size, so that slim kinds are not rare; `striped` gives it dark bands.
    """

    name: str
    palette: tuple[int, int, int]
    hue: float
    inside: Callable | None = None
    reach: float = 1.0
    striped: bool = False


def _square(u, v):
    return np.maximum(abs(u), abs(v)) <= 0.5**0.5


def _triangle(u, v):
    return np.maximum(-v, abs(u) * 0.75**0.5 + v / 2) <= 0.5


TOY_CLASSES = (
    ToyClass('ground', (120, 120, 120), hue=110),
    ToyClass('disk', (230, 85, 60), hue=15, inside=lambda u, v: u * u + v * v <= 1, reach=0.9),
    ToyClass('square', (60, 110, 220), hue=215, inside=_square, reach=1.05),
    ToyClass('triangle', (70, 175, 75), hue=135, inside=_triangle, reach=1.35),
    ToyClass('ring', (245, 190, 50), hue=30, inside=lambda u, v: abs(u * u + v * v - 0.6) <= 0.4, reach=1.1),
    ToyClass('stripes', (165, 80, 195), hue=230, inside=_square, reach=1.05, striped=True),
)
# what mmseg and mmdet call metainfo; in the COCO layout the ground is no category
TOY_METAINFO = {'classes': tuple(row.name for row in TOY_CLASSES), 'palette': [row.palette for row in TOY_CLASSES]}
TOY_COCO_METAINFO = {'classes': TOY_METAINFO['classes'][1:], 'palette': TOY_METAINFO['palette'][1:]}

HUE_SPREAD = 22.0  # degrees; about the distance of the hues inside a pair
MIN_SIDE = 32  # pixels; below it the shapes are too small to tell apart


@dataclass(frozen=True)
class ToyScene:
    """image (H, W, 3) uint8 RGB; labels (H, W) uint8, rows of TOY_CLASSES; instances: [(class, visible mask (H, W) bool)]."""

    image: np.ndarray
    labels: np.ndarray
    instances: list = field(default_factory=list)


def draw_scene(rng, size):
    """Draws one scene from a numpy Generator; the same state gives the same scene. Sides from MIN_SIDE pixels.

    Every object keeps at least half of its outline visible. Not guaranteed: that each class occurs in each scene.
    """
    height, width = size
    hue = np.full(size, rng.uniform(60, 160), np.float32) + 30 * _clouds(rng, size)
    saturation = rng.uniform(0.15, 0.45) + 0.15 * _clouds(rng, size)
    value = rng.uniform(0.4, 0.75) + 0.25 * _clouds(rng, size)
    labels = np.zeros(size, np.uint8)
    owner = np.full(size, -1, np.int16)  # the object seen at each pixel
    areas = []
    for index in _deck(rng, round(5 * height * width / min(size) ** 2) + rng.integers(0, 3)):
        mask, bands = _place(rng, index, owner, areas)
        if mask is None:
            continue
        owner[mask] = len(areas)
        labels[mask] = index
        areas.append((index, int(mask.sum())))
        hue[mask] = rng.normal(TOY_CLASSES[index].hue, HUE_SPREAD)
        saturation[mask] = rng.uniform(0.3, 0.75)
        shade = rng.uniform(0.45, 0.95) + 0.12 * _clouds(rng, size)
        value[mask] = (shade * bands)[mask]
    instances = [(index, owner == number) for number, (index, _) in enumerate(areas)]
    return ToyScene(_photograph(rng, hue, saturation, value), labels, instances)


def _deck(rng, count):
    """`count` kinds of objects in random order, each as often as the others to within one."""
    kinds = np.arange(1, len(TOY_CLASSES))
    decks = [rng.permutation(kinds) for _ in range(-(-count // len(kinds)))]
    return np.concatenate(decks)[:count]


def _place(rng, index, owner, areas, tries=12):
    """Finds a place for one object that leaves half of every earlier one visible; (None, None) if there is none.

    Returns its mask and the factor (H, W) on its brightness.
    """
    row, size = TOY_CLASSES[index], owner.shape
    ys, xs = np.mgrid[: size[0], : size[1]].astype(np.float32)
    for _ in range(tries):
        radius = rng.uniform(0.16, 0.27) * min(size) * row.reach
        cy, cx = (rng.uniform(0.6 * radius, side - 0.6 * radius) for side in size)
        turn = rng.uniform(0, 2 * np.pi)
        phase, period = rng.uniform(0, 1), max(rng.uniform(0.3, 0.5) * radius, 5)
        u = ((xs - cx) * np.cos(turn) + (ys - cy) * np.sin(turn)) / radius
        v = ((ys - cy) * np.cos(turn) - (xs - cx) * np.sin(turn)) / radius
        mask = row.inside(u, v)
        left = np.bincount(owner[~mask & (owner >= 0)], minlength=len(areas))
        if all(seen >= 0.5 * area for seen, (_, area) in zip(left, areas)):
            dark = row.striped & ((u * radius / period + phase) % 1 < 0.5)
            return mask, np.where(dark, np.float32(0.45), np.float32(1))
    return None, None


def _clouds(rng, size):
    """Smooth noise (H, W) in about -1..1, the sum of a coarse and a fine octave."""
    octaves = [(4, 0.6), (16, 0.4)]
    grids = [(rng.uniform(-1, 1, (cells, cells)).astype(np.float32), weight) for cells, weight in octaves]
    return sum(weight * cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) for grid, weight in grids)


def _photograph(rng, hue, saturation, value):
    """HSV planes to a picture under slanting light, a little soft, with sensor noise: (H, W, 3) uint8 RGB."""
    ys, xs = np.mgrid[-1 : 1 : hue.shape[0] * 1j, -1 : 1 : hue.shape[1] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0.8, 1.1) + 0.2 * (xs * np.cos(angle) + ys * np.sin(angle))
    hsv = np.stack([hue % 360, saturation.clip(0, 1), (value * light).clip(0, 1)], axis=-1).astype(np.float32)
    rgb = cv2.GaussianBlur(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), (0, 0), 0.6)
    rgb += rng.normal(0, rng.uniform(0.02, 0.05), rgb.shape)
    return (rgb.clip(0, 1) * 255).round().astype(np.uint8)

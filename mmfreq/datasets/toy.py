"""Toy datasets: generated images of shapes on a textured ground, with labels and instances, so that tests need no download.

Pairs of classes share a hue (disk and ring, square and stripes, triangle and ground): color helps to tell the classes apart, but
only shape and texture decide. Needs only numpy and OpenCV.

Sample i of a split depends only on the seed, the split and i: the same seed gives the same files byte for byte (with the same
OpenCV), for any number of samples. A marker file, `toy.json`, holds the parameters; a folder without one is never overwritten.

Legend: H W image, K classes; u v an object's own coordinates, in which it fits the unit disk.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np


@dataclass(frozen=True)
class ToyClass:
    """A class: its name, its color in drawn label maps, and how its objects are drawn.

    Attributes:
        hue: center of its hues in degrees.
        inside: (u, v) -> mask of the points that belong to it; None for the background.
        reach: scales its size, so that slim shapes are not rare.
        striped: whether it has dark bands.
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

HUE_SPREAD = 22.0  # degrees; about the distance of the hues within a pair
MIN_SIDE = 32  # pixels; in smaller images the shapes cannot be distinguished
MARKER = 'toy.json'
VERSION = 1  # of the generator; increased when the same parameters give other files
SPLITS = ('train', 'val')
ADE_FOLDERS = {'train': 'training', 'val': 'validation'}


@dataclass(frozen=True)
class ToyScene:
    """image (H, W, 3) uint8 RGB; labels (H, W) uint8, indices of TOY_CLASSES; instances [(class, visible mask (H, W) bool)]."""

    image: np.ndarray
    labels: np.ndarray
    instances: list = field(default_factory=list)


def draw_scene(rng, size):
    """Draw one scene with a numpy Generator; the same state gives the same scene. Sides of at least MIN_SIDE pixels.

    At least half of every object stays visible. Not guaranteed: that each class occurs in each scene.
    """
    height, width = size
    hue = np.full(size, rng.uniform(60, 160), np.float32) + 30 * _clouds(rng, size)
    saturation = rng.uniform(0.15, 0.45) + 0.15 * _clouds(rng, size)
    value = rng.uniform(0.4, 0.75) + 0.25 * _clouds(rng, size)
    labels = np.zeros(size, np.uint8)
    owner = np.full(size, -1, np.int16)  # the object that is visible at each pixel
    areas = []
    for index in _random_classes(rng, round(5 * height * width / min(size) ** 2) + rng.integers(0, 3)):
        mask, bands = _draw_object(rng, index, owner, areas)
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


def _random_classes(rng, count):
    """`count` classes of objects in random order; their numbers differ by at most one."""
    classes = np.arange(1, len(TOY_CLASSES))
    return np.concatenate([rng.permutation(classes) for _ in range(-(-count // len(classes)))])[:count]


def _draw_object(rng, index, owner, areas, tries=12):
    """Mask and brightness factor, both (H, W), of an object that leaves half of every earlier one visible; else (None, None)."""
    row, size = TOY_CLASSES[index], owner.shape
    ys, xs = np.mgrid[: size[0], : size[1]].astype(np.float32)
    for _ in range(tries):
        radius = rng.uniform(0.16, 0.27) * min(size) * row.reach
        cy, cx = (rng.uniform(0.6 * radius, side - 0.6 * radius) for side in size)
        angle = rng.uniform(0, 2 * np.pi)
        phase, period = rng.uniform(0, 1), max(rng.uniform(0.3, 0.5) * radius, 5)
        u = ((xs - cx) * np.cos(angle) + (ys - cy) * np.sin(angle)) / radius
        v = ((ys - cy) * np.cos(angle) - (xs - cx) * np.sin(angle)) / radius
        mask = row.inside(u, v)
        visible = np.bincount(owner[~mask & (owner >= 0)], minlength=len(areas))
        if all(seen >= 0.5 * area for seen, (_, area) in zip(visible, areas)):
            dark = row.striped & ((u * radius / period + phase) % 1 < 0.5)
            return mask, np.where(dark, np.float32(0.45), np.float32(1))
    return None, None


def _clouds(rng, size):
    """Smooth noise (H, W) of about -1..1, the sum of a coarse and a fine octave."""
    octaves = [(4, 0.6), (16, 0.4)]
    grids = [(rng.uniform(-1, 1, (side, side)).astype(np.float32), weight) for side, weight in octaves]
    return sum(weight * cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) for grid, weight in grids)


def _photograph(rng, hue, saturation, value):
    """HSV planes to an image (H, W, 3) uint8 RGB, with a gradient of light, slight blur and noise."""
    ys, xs = np.mgrid[-1 : 1 : hue.shape[0] * 1j, -1 : 1 : hue.shape[1] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0.8, 1.1) + 0.2 * (xs * np.cos(angle) + ys * np.sin(angle))
    hsv = np.stack([hue % 360, saturation.clip(0, 1), (value * light).clip(0, 1)], axis=-1).astype(np.float32)
    rgb = cv2.GaussianBlur(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), (0, 0), 0.6)
    rgb += rng.normal(0, rng.uniform(0.02, 0.05), rgb.shape)
    return (rgb.clip(0, 1) * 255).round().astype(np.uint8)


@dataclass(frozen=True)
class ToyReport:
    """A toy dataset in `root`.

    Attributes:
        counts: split -> number of images.
        frequencies: class name -> share of the labeled pixels (ADE20K layout) or of the instances (COCO layout), of both splits.
        written: False if the dataset already existed.
    """

    root: Path
    layout: str
    counts: dict
    frequencies: dict
    written: bool

    def __str__(self):
        verb = 'wrote' if self.written else 'nothing to do, the same toy dataset already exists:'
        shares = ', '.join(f'{name} {share:.1%}' for name, share in self.frequencies.items())
        return f'{verb} {self.counts["train"]} + {self.counts["val"]} images ({self.layout}) in {self.root}\n  {shares}'


def write_toy_ade20k(root, train=160, val=32, size=(128, 128), seed=0, overwrite=False, on_sample=None):
    """Write `images/{training,validation}/*.jpg` and `annotations/{training,validation}/*.png` in `root`.

    Labels are uint8 as in ADE20K (for `reduce_zero_label=True`): 0 is not labeled, 1..K are TOY_CLASSES. One image in three has a
    thin border without labels around its shapes.

    Args:
        size: (H, W) of the images.
        overwrite: replace a toy dataset with other parameters.
        on_sample: called after each image.

    Returns:
        A `ToyReport`.

    Raises:
        FileExistsError: `root` has a toy dataset with other parameters (unless `overwrite`), or other files (always).
        ValueError: a count or a side is too small.
    """

    def write(split, index, rng):
        scene = draw_scene(rng, size)
        labels = scene.labels + 1
        if rng.random() < 1 / 3:
            labels[_borders(scene.labels)] = 0
        image, annotation = _ade_files(split, index)
        _save(root / image, scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        _save(root / annotation, labels)
        return np.bincount(labels.ravel(), minlength=len(TOY_CLASSES) + 1)[1:]

    root = Path(root)
    writer = _Writer(root, 'ade20k', train, val, size, seed)
    return writer.run(write, _ade_files, tuple(row.name for row in TOY_CLASSES), overwrite, on_sample)


def write_toy_coco(root, train=160, val=32, size=(160, 192), seed=0, overwrite=False, on_sample=None):
    """Write `{train,val}2017/*.jpg` and `annotations/instances_{train,val}2017.json` in `root`.

    The categories are TOY_CLASSES without the ground, with ids from 1. Masks are the visible pixels as uncompressed run lengths
    (exact, with the hole of a ring); bbox and area are those of the mask. Arguments and errors as in `write_toy_ade20k`.
    """

    def write(split, index, rng):
        scene = draw_scene(rng, size)
        name = _coco_files(split, index)[0]
        _save(root / name, scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        image_id = index + 1
        tables[split]['images'].append({'id': image_id, 'file_name': Path(name).name, 'height': size[0], 'width': size[1]})
        for number, (label, mask) in enumerate(scene.instances):
            instance = {'id': 1000 * image_id + number, 'image_id': image_id, 'category_id': int(label), 'iscrowd': 0}
            tables[split]['annotations'].append(instance | _coco_geometry(mask))
        return np.bincount([label for label, _ in scene.instances], minlength=len(TOY_CLASSES))[1:]

    def finish():
        for split, table in tables.items():
            path = root / f'annotations/instances_{split}2017.json'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(table))

    root = Path(root)
    categories = [{'id': i, 'name': row.name, 'supercategory': 'shape'} for i, row in enumerate(TOY_CLASSES) if i]
    info = {'description': 'mmfreq toy shapes', 'version': str(VERSION)}
    tables = {split: {'info': info, 'images': [], 'annotations': [], 'categories': categories} for split in SPLITS}
    writer = _Writer(root, 'coco', train, val, size, seed)
    return writer.run(write, _coco_files, tuple(row.name for row in TOY_CLASSES[1:]), overwrite, on_sample, finish)


class _Writer:
    """Writes one dataset: the marker, what may be replaced, and the loop over the samples."""

    def __init__(self, root, layout, train, val, size, seed):
        if min(train, val) < 1:
            raise ValueError(f'Expected at least 1 image in each split, got train = {train} and val = {val}.')
        if min(size) < MIN_SIDE:
            raise ValueError(f'Expected sides of at least {MIN_SIDE} pixels, got size (H, W) = {tuple(size)}.')
        self.root, self.counts = root, {'train': train, 'val': val}
        self.params = {'layout': layout, 'version': VERSION, 'train': train, 'val': val, 'size': list(size), 'seed': seed}

    def run(self, write, files, names, overwrite, on_sample, finish=None):
        """Write the dataset unless all of its files exist. `write(split, index, rng)` returns counts by class."""
        marker = self._marker()
        if marker and marker['params'] == self.params and not overwrite and marker['frequencies'] and self._all_exist(files):
            return ToyReport(self.root, self.params['layout'], self.counts, marker['frequencies'], written=False)
        if marker and marker['params'] != self.params and not overwrite:
            raise FileExistsError(
                f'{self.root} has a toy dataset with other parameters: expected {self.params}, found {marker["params"]}. '
                'Choose another folder, or overwrite it (overwrite=True, --overwrite).'
            )
        if marker:
            self._remove(marker['params'])
        self._mark(None)  # without frequencies: an interrupted run starts again
        totals = np.zeros(len(names), np.int64)
        for split, count in self.counts.items():
            for index in range(count):
                totals += write(split, index, np.random.default_rng([self.params['seed'], SPLITS.index(split), index]))
                if on_sample:
                    on_sample()
        if finish:
            finish()
        frequencies = dict(zip(names, (totals / max(totals.sum(), 1)).round(4).tolist()))
        self._mark(frequencies)
        return ToyReport(self.root, self.params['layout'], self.counts, frequencies, written=True)

    def _all_exist(self, files):
        wanted = {name for split, count in self.counts.items() for index in range(count) for name in files(split, index)}
        return all((self.root / name).is_file() for name in wanted)

    def _marker(self):
        if not self.root.is_dir() or not any(self.root.iterdir()):
            return None
        path = self.root / MARKER
        if not path.is_file():
            raise FileExistsError(
                f'Expected an empty folder or a toy dataset with {MARKER}; {self.root} has other files. Choose another folder.'
            )
        return json.loads(path.read_text())

    def _mark(self, frequencies):
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / MARKER).write_text(json.dumps({'params': self.params, 'frequencies': frequencies}, indent=1) + '\n')

    def _remove(self, params):
        """Remove the files of an earlier dataset, and nothing else."""
        files = _ade_files if params['layout'] == 'ade20k' else _coco_files
        for split in SPLITS:
            for name in {name for index in range(params[split]) for name in files(split, index)}:
                (self.root / name).unlink(missing_ok=True)


def _ade_files(split, index):
    folder, stem = ADE_FOLDERS[split], f'{split}_{index:05d}'
    return f'images/{folder}/{stem}.jpg', f'annotations/{folder}/{stem}.png'


def _coco_files(split, index):
    return f'{split}2017/{index + 1:012d}.jpg', f'annotations/instances_{split}2017.json'


def _borders(labels):
    """The pixels (H, W) bool with another label among their eight neighbors."""
    kernel = np.ones((3, 3), np.uint8)
    return cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)


def _coco_geometry(mask):
    """segmentation, bbox (x, y, width, height) and area of a mask; run lengths are by column and begin with zeros."""
    flat = np.concatenate([[False], mask.ravel(order='F')])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    (top, bottom), (left, right) = ((np.flatnonzero(mask.any(axis=axis))[[0, -1]]).tolist() for axis in (1, 0))
    bbox = [left, top, right - left + 1, bottom - top + 1]
    return {'segmentation': {'size': list(mask.shape), 'counts': counts}, 'bbox': bbox, 'area': int(mask.sum())}


def _save(path, array, flags=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.ascontiguousarray(array), list(flags)):
        raise OSError(f'OpenCV could not write {path}')

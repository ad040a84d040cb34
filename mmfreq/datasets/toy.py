"""Writes toy data sets in the layouts of ADE20K and COCO, so that tests and the quickstart need no download.

Sample i of a split depends on the seed, the split and i alone: the same seed gives the same files byte for byte (under the same
OpenCV), however many are written. A marker, `toy.json`, names the parameters; without one a folder is never written over.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mmfreq.datasets.toy_scene import MIN_SIDE, TOY_CLASSES, draw_scene

__all__ = ['MARKER', 'TOY_CLASSES', 'ToyReport', 'write_toy_ade20k', 'write_toy_coco']

MARKER = 'toy.json'
VERSION = 1  # of the generator: raised whenever the same parameters come to give other files
SPLITS = ('train', 'val')
ADE_FOLDERS = {'train': 'training', 'val': 'validation'}


@dataclass(frozen=True)
class ToyReport:
    """What stands in `root`. `written` is False where it was there already; `frequencies` maps class names to their share of
    the labelled pixels (ADE20K layout) or of the instances (COCO layout), both splits together."""

    root: Path
    layout: str
    counts: dict
    frequencies: dict
    written: bool

    def __str__(self):
        verb = 'wrote' if self.written else 'nothing to do: the same toy set is already there,'
        shares = ', '.join(f'{name} {share:.1%}' for name, share in self.frequencies.items())
        return f'{verb} {self.counts["train"]} + {self.counts["val"]} pictures ({self.layout}) in {self.root}\n  {shares}'


def write_toy_ade20k(root, train=160, val=32, size=(128, 128), seed=0, overwrite=False, on_sample=None):
    """Writes `images/{training,validation}/*.jpg` and `annotations/{training,validation}/*.png` under `root`.

    Labels are uint8 as in ADE20K (for `reduce_zero_label=True`): 0 is not labelled, 1..K are the rows of TOY_CLASSES. One
    picture in three has a thin unlabelled border around its shapes. `on_sample()` is called after each picture.

    Raises FileExistsError if `root` holds another toy set (unless `overwrite`) or anything that is no toy set (always).
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
    job = _Job(root, 'ade20k', train, val, size, seed)
    return job.run(write, _ade_files, tuple(row.name for row in TOY_CLASSES), overwrite, on_sample)


def write_toy_coco(root, train=160, val=32, size=(160, 192), seed=0, overwrite=False, on_sample=None):
    """Writes `{train,val}2017/*.jpg` and `annotations/instances_{train,val}2017.json` under `root`.

    The categories are TOY_CLASSES without the ground, with ids from 1. Masks are the visible pixels as uncompressed run lengths
    (exact, and a ring has a hole); bbox and area are those of the mask. Arguments and errors as in `write_toy_ade20k`.
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
    job = _Job(root, 'coco', train, val, size, seed)
    return job.run(write, _coco_files, tuple(row.name for row in TOY_CLASSES[1:]), overwrite, on_sample, finish)


class _Job:
    """One set to be written: its marker, what may be replaced, and the loop over its samples."""

    def __init__(self, root, layout, train, val, size, seed):
        if min(train, val) < 1:
            raise ValueError(f'train = {train} and val = {val} pictures asked for; both must be at least 1')
        if min(size) < MIN_SIDE:
            raise ValueError(f'size is (H, W) = {tuple(size)}; both must be at least {MIN_SIDE} pixels')
        self.root, self.counts = root, {'train': train, 'val': val}
        self.params = {'layout': layout, 'version': VERSION, 'train': train, 'val': val, 'size': list(size), 'seed': seed}

    def run(self, write, files, names, overwrite, on_sample, finish=None):
        """Writes the set unless it is there, every file of it. `write(split, index, rng)` returns counts by class."""
        marker = self._marker()
        if marker and marker['params'] == self.params and not overwrite and marker['frequencies'] and self._all_there(files):
            return ToyReport(self.root, self.params['layout'], self.counts, marker['frequencies'], written=False)
        if marker and marker['params'] != self.params and not overwrite:
            raise FileExistsError(
                f'{self.root} holds a toy set with other parameters: found {marker["params"]}, asked for {self.params}; '
                'choose another folder, or overwrite it (overwrite=True, --overwrite)'
            )
        if marker:
            self._remove(marker['params'])
        self._mark(None)  # no frequencies yet: an interrupted run is begun anew
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

    def _all_there(self, files):
        wanted = {name for split, count in self.counts.items() for index in range(count) for name in files(split, index)}
        return all((self.root / name).is_file() for name in wanted)

    def _marker(self):
        if not self.root.is_dir() or not any(self.root.iterdir()):
            return None
        path = self.root / MARKER
        if not path.is_file():
            raise FileExistsError(f'{self.root} is not empty and has no {MARKER}, so it is no toy set; choose an empty folder')
        return json.loads(path.read_text())

    def _mark(self, frequencies):
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / MARKER).write_text(json.dumps({'params': self.params, 'frequencies': frequencies}, indent=1) + '\n')

    def _remove(self, params):
        """Removes the files of an earlier set by name, and nothing else."""
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
    """The pixels (H, W) bool that have another label among their eight neighbours."""
    kernel = np.ones((3, 3), np.uint8)
    return cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)


def _coco_geometry(mask):
    """segmentation, bbox (x, y, width, height) and area of a mask; run lengths go down the columns and begin with zeros."""
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

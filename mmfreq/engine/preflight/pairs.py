"""Segmentation data: every image has its label, and a sample of them can be read and fits the head."""

import logging
import os

from mmengine.registry import DATASETS, DefaultScope

from mmfreq.engine.errors import DataError
from mmfreq.engine.meta_model import quiet
from mmfreq.engine.notes import say
from mmfreq.engine.paths import is_remote
from mmfreq.engine.preflight.folders import Folders, some
from mmfreq.engine.preflight.labels import check_sample
from mmfreq.engine.preflight.paths import leaves_of
from mmfreq.engine.preflight.report import Pictures

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def check_pairs(cfg, report, loaders):
    """Look for the label of every image of the loaders, and at a sample of the pairs.

    Raises:
        DataError: no image; images without label; a picture of the sample cannot be read or its label is not what the head
            predicts. The first names and the number of all are told.
    """
    for key, leaf in leaves_of(cfg, loaders):
        dataset = _listed(leaf, cfg.default_scope)
        if dataset is None:
            continue
        samples = [dataset.get_data_info(index) for index in range(len(dataset))]
        report.data[key] = Pictures(len(samples), len(samples), len(dataset.metainfo.get('classes') or ()) or None)
        if not samples:
            raise DataError(_no_images(key, dataset))
        if is_remote(samples[0].get('img_path', '')) or (leaf.get('backend_args') or {}).get('backend', 'local') != 'local':
            continue
        _check_files(key, leaf, dataset, samples, report)
        check_sample(cfg, key, leaf, samples, report)


def _listed(leaf, scope):
    """The data set with its files listed and without a pipeline; None if it is not one of images and label maps, or fails."""
    plain = {**leaf, 'pipeline': [], 'lazy_init': True, 'serialize_data': False}
    with DefaultScope.overwrite_default_scope(scope), quiet(logging.WARNING):
        try:
            dataset = DATASETS.build(plain)
            if not hasattr(dataset, 'seg_map_suffix'):
                return None
            dataset.full_init()
            return dataset
        except Exception as error:  # the Runner builds it too, and then shows where it fails
            told = f'{type(error).__name__}: {error}'.splitlines()[0]
    say(f'The files of {leaf.get("type")} are not looked at: {told}', level=logging.DEBUG)
    return None


def _no_images(key, dataset):
    folder = dataset.data_prefix.get('img_path') or ''
    found = sorted({os.path.splitext(name)[1] for name in Folders().names(folder)} - {''})
    hint = f'; there are files {", ".join(found)}: --cfg-options {key}.img_suffix={found[0]}' if found else ''
    return f'{key} finds no image in {folder} whose name ends with img_suffix={dataset.img_suffix!r}{hint}.'


def _check_files(key, leaf, dataset, samples, report):
    """Raise for files that are missing; note files that have no use."""
    images, labels = Folders(), Folders()
    listed_by_name = bool(dataset.ann_file) and not os.path.isdir(dataset.ann_file)
    if listed_by_name:
        gone = [sample['img_path'] for sample in samples if not images.holds(sample['img_path'])]
        if gone:
            raise DataError(
                f'{key}: {len(gone)} of the {len(samples)} images that {dataset.ann_file} names are not there: {some(gone)}. '
                f'Mend the list (one name without suffix a line), data_prefix.img_path, or img_suffix={dataset.img_suffix!r}.'
            )
    loads_labels = any('LoadAnnotations' in str(step.get('type')) for step in leaf.get('pipeline') or ())
    if not all('seg_map_path' in sample for sample in samples):
        if loads_labels:
            raise DataError(
                f'{key} names no folder of labels, and its pipeline loads them: set {key}.data_prefix.seg_map_path to a folder.'
            )
        return
    wanted = {sample['seg_map_path']: sample['img_path'] for sample in samples}
    bare = [image for label, image in wanted.items() if not labels.holds(label)]
    if bare:
        label = next(label for label, image in wanted.items() if image == sorted(bare)[0])
        raise DataError(
            f'{key}: {len(bare)} of the {len(samples)} images have no label: {some(bare)}. Looked for {label}. Put the labels '
            'there, '
            f'take the images away, or set seg_map_suffix={dataset.seg_map_suffix!r} of the data set to how the names of its '
            'labels end.'
        )
    if listed_by_name:  # the folders hold other splits, too
        return
    unused = [path for path in labels.listed() if path.endswith(dataset.seg_map_suffix) and path not in wanted]
    if unused:
        report.notes.append(f'{key}: {len(unused)} labels have no image, and are not used: {some(unused)}.')
    for sample in samples:
        images.names(os.path.dirname(sample['img_path']))
    others = [path for path in images.listed() if path.lower().endswith(IMAGE_SUFFIXES) and not path.endswith(dataset.img_suffix)]
    others = [path for path in others if path not in wanted]
    if others:
        report.warnings.append(
            f'{key}: {len(others)} images are left out, as their names do not end with img_suffix={dataset.img_suffix!r}: '
            f'{some(others)}.'
        )

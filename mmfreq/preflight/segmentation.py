"""A sample of images and labels, read as the config's pipeline reads them."""

import copy
import logging
import os

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, DefaultScope

from mmfreq.config.meta_model import logging_disabled
from mmfreq.config.reading import is_remote, type_name
from mmfreq.errors import DataError, InputError
from mmfreq.log import log_once
from mmfreq.preflight.paths import Folders, first_names, leaves_of
from mmfreq.preflight.report import ImageCounts
from mmfreq.preflight.samples import GuardedPipeline, check_labels

LOOKED_AT = 32  # pairs, evenly spaced


def check_sample(cfg, key, leaf, samples, report):
    """Read some of the pairs with the `Load*` steps of a data set's pipeline, and compare their labels with the head.

    What is looked at in each is told in `sample_checks`, and in `check_labels`.

    Raises:
        InputError: with what is wrong with the first, and the number of those that are wrong.
    """
    steps = [step for step in leaf.get('pipeline') or () if type_name(step.get('type', '')).startswith('Load')]
    if not steps:
        return
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        pipeline = GuardedPipeline(Compose(steps))
    num_classes, ignore_index = _range_of(cfg)
    picked = [samples[index] for index in np.unique(np.linspace(0, len(samples) - 1, LOOKED_AT).round().astype(int))]
    faults, labelled = [], []
    for sample in picked:
        try:
            loaded = pipeline(copy.deepcopy(sample))
            labels = None if loaded is None else loaded.get('gt_seg_map')
            if labels is not None:
                if num_classes:
                    check_labels(torch.from_numpy(labels.astype(np.int64)), num_classes, ignore_index, sample['seg_map_path'])
                labelled.append(bool((labels != ignore_index).any()))
        except InputError as error:
            faults.append(error)
    if faults:
        more = f'\nSo {len(faults)} of the {len(picked)} pairs that were looked at.' if len(faults) > 1 else ''
        raise InputError(f'{key}: {faults[0]}{more}') from faults[0]
    if labelled and not any(labelled):
        report.warnings.append(
            f'{key}: all pixels of the {len(labelled)} labels that were looked at are ignored ({ignore_index}), so that nothing '
            'would '
            'be learnt. Are these the labels, and is reduce_zero_label right?'
        )


def _range_of(cfg):
    """(num_classes, ignore_index) of the last head; num_classes None where it states none."""
    model = cfg.model.get('module') or cfg.model
    head = model.get('decode_head') or {}
    head = head[-1] if isinstance(head, (list, tuple)) else head
    count = head.get('num_classes')
    if count == 1 and head.get('out_channels') == 1:
        count = 2  # one sigmoid map: background and the class
    return count, head.get('ignore_index', 255)


# Segmentation data: every image has its label, and a sample of them can be read and fits the head.


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
        report.data[key] = ImageCounts(len(samples), len(samples), len(dataset.metainfo.get('classes') or ()) or None)
        if not samples:
            raise DataError(_no_images(key, dataset))
        if is_remote(samples[0].get('img_path', '')) or (leaf.get('backend_args') or {}).get('backend', 'local') != 'local':
            continue
        _check_files(key, leaf, dataset, samples, report)
        check_sample(cfg, key, leaf, samples, report)


def _listed(leaf, scope):
    """The data set with its files listed and without a pipeline; None if it is not one of images and label maps, or fails."""
    plain = {**leaf, 'pipeline': [], 'lazy_init': True, 'serialize_data': False}
    with DefaultScope.overwrite_default_scope(scope), logging_disabled(logging.WARNING):
        try:
            dataset = DATASETS.build(plain)
            if not hasattr(dataset, 'seg_map_suffix'):
                return None
            dataset.full_init()
            return dataset
        except Exception as error:  # the Runner builds it too, and then shows where it fails
            told = f'{type(error).__name__}: {error}'.splitlines()[0]
    log_once(f'The files of {leaf.get("type")} are not looked at: {told}', level=logging.DEBUG)
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
                f'{key}: {len(gone)} of the {len(samples)} images that {dataset.ann_file} names are not there: '
                f'{first_names(gone)}. Mend the list (one name without suffix a line), '
                f'data_prefix.img_path, or img_suffix={dataset.img_suffix!r}.'
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
            f'{key}: {len(bare)} of the {len(samples)} images have no label: {first_names(bare)}. Looked for {label}. '
            f'Put the labels there, take the images away, or set seg_map_suffix={dataset.seg_map_suffix!r} '
            'of the data set to how the names of its '
            'labels end.'
        )
    if listed_by_name:  # the folders hold other splits, too
        return
    unused = [path for path in labels.listed() if path.endswith(dataset.seg_map_suffix) and path not in wanted]
    if unused:
        report.notes.append(f'{key}: {len(unused)} labels have no image, and are not used: {first_names(unused)}.')
    for sample in samples:
        images.names(os.path.dirname(sample['img_path']))
    others = [path for path in images.listed() if path.lower().endswith(IMAGE_SUFFIXES) and not path.endswith(dataset.img_suffix)]
    others = [path for path in others if path not in wanted]
    if others:
        report.warnings.append(
            f'{key}: {len(others)} images are left out, as their names do not end with img_suffix={dataset.img_suffix!r}: '
            f'{first_names(others)}.'
        )

"""Segmentation datasets: every image has a label, and a sample of the pairs can be read and fits the head."""

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
from mmfreq.preflight.data import FolderListing, first_names, loader_datasets
from mmfreq.preflight.report import ImageCounts
from mmfreq.preflight.samples import GuardedPipeline, check_labels

SAMPLE_SIZE = 32  # pairs of each dataset that are read, evenly spaced
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def check_pairs(cfg, report, loaders):
    """Check that every image of the loaders' datasets has a label, and read a sample of the pairs.

    Raises:
        DataError: there is no image; images without a label; a pair of the sample cannot be read, or its label has values that
            the head does not predict. The message has the first file names and the number of all.
    """
    for key, leaf in loader_datasets(cfg, loaders):
        dataset = _build_listing(leaf, cfg.default_scope)
        if dataset is None:
            continue
        samples = [dataset.get_data_info(index) for index in range(len(dataset))]
        report.data[key] = ImageCounts(len(samples), len(samples), len(dataset.metainfo.get('classes') or ()) or None)
        if not samples:
            raise DataError(_no_images(key, dataset))
        if is_remote(samples[0].get('img_path', '')) or (leaf.get('backend_args') or {}).get('backend', 'local') != 'local':
            continue
        _check_files(key, leaf, dataset, samples, report)
        _check_sample(cfg, key, leaf, samples, report)


def _build_listing(leaf, scope):
    """The dataset with its files listed and without a pipeline; None if it has no label maps or cannot be built."""
    leaf = {**leaf, 'pipeline': [], 'lazy_init': True, 'serialize_data': False}
    with DefaultScope.overwrite_default_scope(scope), logging_disabled(logging.WARNING):
        try:
            dataset = DATASETS.build(leaf)
            if not hasattr(dataset, 'seg_map_suffix'):
                return None
            dataset.full_init()
            return dataset
        except Exception as error:  # the Runner builds the dataset again and then shows where it fails
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
    log_once(f'The files of {leaf.get("type")} are not checked: {reason}', level=logging.DEBUG)
    return None


def _no_images(key, dataset):
    folder = dataset.data_prefix.get('img_path') or ''
    found = sorted({os.path.splitext(name)[1] for name in FolderListing().names(folder)} - {''})
    remedy = 'Fix the folder or the suffix.'
    if found:
        remedy = f'It contains files {", ".join(found)}: set --cfg-options {key}.img_suffix={found[0]}'
    return f'{key}: expected images with img_suffix={dataset.img_suffix!r} in {folder}, found none. {remedy}'


def _check_files(key, leaf, dataset, samples, report):
    """Raise for missing files; report files that are not used."""
    images, labels = FolderListing(), FolderListing()
    listed_by_name = bool(dataset.ann_file) and not os.path.isdir(dataset.ann_file)
    if listed_by_name:
        missing = [sample['img_path'] for sample in samples if not images.has(sample['img_path'])]
        if missing:
            raise DataError(
                f'{key}: {len(missing)} of the {len(samples)} images that {dataset.ann_file} lists do not exist: '
                f'{first_names(missing)}. Fix the list (one name without suffix per line), data_prefix.img_path, or '
                f'img_suffix={dataset.img_suffix!r}.'
            )
    if not all('seg_map_path' in sample for sample in samples):
        if any('LoadAnnotations' in str(step.get('type')) for step in leaf.get('pipeline') or ()):
            raise DataError(
                f'{key}: the pipeline loads labels, but the dataset names no folder of labels. '
                f'Set {key}.data_prefix.seg_map_path to a folder.'
            )
        return
    image_of = {sample['seg_map_path']: sample['img_path'] for sample in samples}
    unlabeled = {image: label for label, image in image_of.items() if not labels.has(label)}
    if unlabeled:
        raise DataError(
            f'{key}: {len(unlabeled)} of the {len(samples)} images have no label: {first_names(unlabeled)}. Expected the label of '
            f'the first at {unlabeled[min(unlabeled)]}. Add the labels, remove the images, or set '
            f'seg_map_suffix={dataset.seg_map_suffix!r} of the dataset to the suffix of the label files.'
        )
    if listed_by_name:  # the folders contain other splits, too
        return
    unused = [path for path in labels.paths() if path.endswith(dataset.seg_map_suffix) and path not in image_of]
    if unused:
        report.notes.append(f'{key}: {len(unused)} labels have no image and are not used: {first_names(unused)}.')
    for sample in samples:
        images.names(os.path.dirname(sample['img_path']))
    skipped = [path for path in images.paths() if path.lower().endswith(IMAGE_SUFFIXES) and not path.endswith(dataset.img_suffix)]
    skipped = [path for path in skipped if path not in image_of]
    if skipped:
        report.warnings.append(
            f'{key}: {len(skipped)} images are skipped, as their names do not end with img_suffix={dataset.img_suffix!r}: '
            f'{first_names(skipped)}.'
        )


def _check_sample(cfg, key, leaf, samples, report):
    """Read some of the pairs with the `Load*` steps of the pipeline, and compare their labels with the head.

    Raises:
        InputError: the error of the first pair that is invalid, and how many of the sample are.
    """
    steps = [step for step in leaf.get('pipeline') or () if type_name(step.get('type', '')).startswith('Load')]
    if not steps:
        return
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        pipeline = GuardedPipeline(Compose(steps))
    num_classes, ignore_index = _label_range(cfg)
    picked = [samples[index] for index in np.unique(np.linspace(0, len(samples) - 1, SAMPLE_SIZE).round().astype(int))]
    errors, labeled = [], []  # labeled: for each label map, whether it has a pixel that is not ignored
    for sample in picked:
        try:
            loaded = pipeline(copy.deepcopy(sample))
            labels = None if loaded is None else loaded.get('gt_seg_map')
            if labels is not None:
                if num_classes:
                    check_labels(torch.from_numpy(labels.astype(np.int64)), num_classes, ignore_index, sample['seg_map_path'])
                labeled.append(bool((labels != ignore_index).any()))
        except InputError as error:
            errors.append(error)
    if errors:
        more = f'\n{len(errors)} of the {len(picked)} pairs that were read are invalid.' if len(errors) > 1 else ''
        raise InputError(f'{key}: {errors[0]}{more}') from errors[0]
    if labeled and not any(labeled):
        report.warnings.append(
            f'{key}: all pixels of the {len(labeled)} labels that were read are ignored ({ignore_index}), so the model would learn '
            'nothing. Check the folder of the labels and reduce_zero_label.'
        )


def _label_range(cfg):
    """(num_classes, ignore_index) of the last head; num_classes is None if the head does not state it."""
    model = cfg.model.get('module') or cfg.model
    head = model.get('decode_head') or {}
    head = head[-1] if isinstance(head, (list, tuple)) else head
    count = head.get('num_classes')
    if count == 1 and head.get('out_channels') == 1:
        count = 2  # one sigmoid map: background and the class
    return count, head.get('ignore_index', 255)

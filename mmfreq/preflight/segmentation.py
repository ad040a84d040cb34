"""Segmentation datasets: every image has a label, a sample of the pairs can be read, and its labels fit the head and the metric."""

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
from mmfreq.preflight.evaluators import metric_config
from mmfreq.preflight.label_values import READ_SECONDS, LabelMaps, number_list, read_more, report_classes
from mmfreq.preflight.pixels import Pixels
from mmfreq.preflight.report import ImageCounts
from mmfreq.preflight.samples import GuardedPipeline, check_labels
from mmfreq.preflight.sampling import read_sample
from mmfreq.preflight.seg_heads import loss_fault, padding_label, segmentation_heads

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def check_pairs(cfg, report, loaders):
    """Check that every image of the loaders' datasets has a label, and read a sample of the pairs.

    Raises:
        DataError: there is no image; images without a label; a pair of the sample cannot be read, or its label has values that
            the head does not predict or the metric does not count; training and validation number the classes differently. The
            message has the first file names and the number of all.
    """
    built = [(key, leaf, _build_listing(leaf, cfg.default_scope)) for key, leaf in loader_datasets(cfg, loaders)]
    built = [(key, leaf, dataset) for key, leaf, dataset in built if dataset is not None]
    read = []
    for key, leaf, dataset in built:
        samples = [dataset.get_data_info(index) for index in range(len(dataset))]
        report.data[key] = ImageCounts(len(samples), len(samples), len(dataset.metainfo.get('classes') or ()) or None)
        if not samples:
            raise DataError(_no_images(key, dataset))
        if is_remote(samples[0].get('img_path', '')) or (leaf.get('backend_args') or {}).get('backend', 'local') != 'local':
            continue
        _check_files(key, leaf, dataset, samples, report)
        maps = _check_sample(cfg, key, leaf, dataset, samples, report, READ_SECONDS / len(built))
        if maps is not None:
            read.append((key, dataset, maps))
    for key, dataset, maps in read:
        _check_ids(cfg, key, dataset, maps, report, _trained_ids(key, dataset, maps, read))
    _compare_datasets([(key, dataset) for key, _, dataset in built], report)


def _trained_ids(key, dataset, maps, read):
    """The class ids in the label maps of the other training datasets that have the same encoding."""
    ids = set()
    for other_key, other, other_maps in read:
        same = all(
            (
                list(other.metainfo.get('classes') or ()) == list(dataset.metainfo.get('classes') or ()),
                other.reduce_zero_label == dataset.reduce_zero_label,
                maps.ignore_index in other_maps.ids or maps.ignore_index not in maps.ids,
            )
        )
        if same and other_key != key and other_key.startswith('train_'):
            ids |= other_maps.ids
    return ids


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


def _check_sample(cfg, key, leaf, dataset, samples, report, seconds):
    """Read some of the pairs with the `Load*` steps of the pipeline, and compare their labels with the head.

    Args:
        seconds: for reading further label maps, if a class does not occur in the sample.

    Returns:
        The `LabelMaps` that were read; None if the pipeline loads none.

    Raises:
        InputError: the error of the first pair that is invalid, and how many of the sample are.
    """
    steps = [step for step in leaf.get('pipeline') or () if type_name(step.get('type', '')).startswith('Load')]
    if not steps:
        return None
    num_classes, ignore_index = _label_range(cfg)
    maps = LabelMaps(len(samples), ignore_index)
    pixels = Pixels(cfg, key, leaf)
    load_pair = _loader(cfg, steps, pixels)

    def read(sample):
        labels = load_pair(sample)
        if labels is not None:
            maps.add(labels, sample['seg_map_path'])
            if num_classes:
                check_labels(torch.from_numpy(labels.astype(np.int64)), num_classes, ignore_index, sample['seg_map_path'])

    def explain():
        shifted = {num_classes} <= maps.ids - {ignore_index} <= set(range(1, num_classes + 1)) if num_classes else False
        if not shifted or dataset.reduce_zero_label:
            return ''
        return f'\nThe labels are 1..{num_classes}: if the files number the classes from 1, set reduce_zero_label=True.'

    read_sample(key, samples, read, 'pairs', explain)
    pixels.report(report)
    if not maps.paths:
        return None
    load_labels = _loader(cfg, [step for step in steps if not type_name(step['type']).startswith('LoadImage')])
    read_more(maps, samples, load_labels, len(dataset.metainfo.get('classes') or ()), seconds)
    return maps


def _loader(cfg, steps, pixels=None):
    """A function from a sample to its label map (None if the steps load none), with checks of files; `pixels` gets the images."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        pipeline = GuardedPipeline(Compose(steps))

    def load(sample):
        loaded = pipeline(copy.deepcopy(sample)) or {}
        if pixels is not None:
            pixels.add(loaded.get('img'), sample.get('img_path'))
        return loaded.get('gt_seg_map')

    return load


def _check_ids(cfg, key, dataset, maps, report, seen):
    """Compare the ids of the label maps with the classes of the dataset, with the metric, and with what the losses can take.

    Args:
        seen: class ids that other training data of the run have.

    Raises:
        InputError: labels of no class in validation, which `IoUMetric` counts wrongly; or a loss that fails on ignored pixels.
    """
    trained = key.startswith('train_')
    count = len(dataset.metainfo.get('classes') or ())
    metric = {} if trained else metric_config(cfg, 'IoUMetric')
    ignored = {maps.ignore_index} if metric is None or trained else {metric.get('ignore_index', 255)}
    beyond = {value for value in maps.ids if value >= count} - ignored
    if count > 1 and beyond and (trained or metric is not None):
        text = f'{key}: the dataset has {count} classes, but its label maps have the ids {number_list(beyond)}, too.'
        if trained:
            report.warnings.append(f'{text} They are trained as classes without a name. Name all classes in `metainfo`.')
        else:
            raise InputError(
                f'{text} IoUMetric (ignore_index={min(ignored)}) leaves them out of the labels but not of the predictions, so the '
                'scores would be wrong. Name all classes, or set the same ignore_index in the heads and in val_evaluator.'
            )
    computable = trained and not loss_fault(cfg)  # otherwise `check_heads` has refused the loss
    if computable and (fault := loss_fault(cfg, ignored='some')):
        if maps.ignore_index in maps.ids:
            raise InputError(f'{key} has ignored pixels ({maps.ignore_index}). With these, {fault}')
        if padding_label(cfg) == maps.ignore_index:
            report.warnings.append(f'{key}: images are padded with ignored pixels ({maps.ignore_index}). With these, {fault}')
    if computable and maps.ignored and (fault := loss_fault(cfg, ignored='all')):
        text = f'{key}: in {maps.ignored} of {maps} all pixels are ignored, and in a batch of only such label maps {fault}'
        if maps.ignored == len(maps.paths):
            raise InputError(text)
        report.warnings.append(text)
    report_classes(key, maps, dataset, report, trained, seen)


def _compare_datasets(built, report):
    """Compare the class ids of each validation dataset with those of the first training dataset.

    Raises:
        DataError: they differ, so that the scores would be wrong.
    """
    trained = next(((key, dataset) for key, dataset in built if key.startswith('train_')), None)
    for key, dataset in built:
        if trained is None or key.startswith('train_'):
            continue
        train_key, train_set = trained
        names, train_names = (list(each.metainfo.get('classes') or ()) for each in (dataset, train_set))
        different = [(index, *pair) for index, pair in enumerate(zip(names, train_names, strict=False)) if pair[0] != pair[1]]
        for index, name, train_name in different:
            if str(name).casefold() != str(train_name).casefold():
                raise DataError(
                    f'{key}: label {index} is {name!r}, but in {train_key} it is {train_name!r}, so the scores would be wrong. '
                    'List the same classes in the same order in every dataset.'
                )
        if different:
            index, name, train_name = different[0]
            report.warnings.append(
                f'{key}: label {index} is {name!r}, but in {train_key} it is {train_name!r}. They are taken for the same class: '
                'write the names alike in every dataset.'
            )
        if names and train_names and len(names) != len(train_names):
            report.warnings.append(
                f'{key} has {len(names)} classes, but {train_key} has {len(train_names)}. What only one of them has is never '
                'trained, or counts as an error wherever it is predicted.'
            )
        if dataset.reduce_zero_label != train_set.reduce_zero_label:
            text = (
                f'{key}: reduce_zero_label={dataset.reduce_zero_label}, but in {train_key} it is {train_set.reduce_zero_label}, so '
                'the ids of the classes differ by one.'
            )
            if dataset.data_root == train_set.data_root or (type(dataset) is type(train_set) and train_set.METAINFO):
                raise DataError(f'{text} Set the same value in every dataset, and in LoadAnnotations if it is set there.')
            report.warnings.append(f'{text} This is right only if the files of both are numbered differently.')


def _label_range(cfg):
    """(number of label ids, ignore_index) of the last head; the number is None if the head does not state it."""
    heads = [head for name, head in segmentation_heads(cfg) if name.startswith('model.decode_head')]
    head = heads[-1] if heads else {}
    count = head.get('num_classes')
    return 2 if count == 1 else count, head.get('ignore_index', 255)  # `check_heads` refuses a single class

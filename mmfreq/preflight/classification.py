"""Classification datasets: folders, lists and labels, compared with each other, with the head and with the metric.

Checked are mmpretrain's `CustomDataset` and `ImageNet`, which read folders or lists of text, and datasets that read its JSON files.
"""

import logging
import os
from collections import Counter

from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import DATASETS, DefaultScope

from mmfreq.config.meta_model import logging_disabled
from mmfreq.config.reading import absolute, is_remote, type_name
from mmfreq.errors import DataError
from mmfreq.log import log_once
from mmfreq.preflight.class_folders import Samples, read_class_folders, read_list
from mmfreq.preflight.data import FolderListing, first_names, loader_datasets, model_heads
from mmfreq.preflight.evaluators import check_accuracy
from mmfreq.preflight.pixels import Pixels
from mmfreq.preflight.report import ImageCounts
from mmfreq.preflight.samples import GuardedPipeline
from mmfreq.preflight.sampling import read_sample


def check_images(cfg, report, loaders):
    """Check the images and labels of the loaders' datasets, the evaluator, and the numbers of classes in the config.

    Raises:
        DataError: mmpretrain cannot train with the data, or would score them wrongly; the first of 32 images that cannot be read;
            an evaluator that fails after the first epoch.
    """
    count = _num_classes(cfg)
    _check_config(cfg, count)
    splits = {}
    for key, leaf in loader_datasets(cfg, loaders):
        dataset = _build(leaf, cfg.default_scope)
        if dataset is None or is_remote(dataset.img_prefix or ''):
            log_once(f'The images of {key} ({leaf.get("type")}) are not checked.', level=logging.DEBUG)
            continue
        trained = key.startswith('train_')
        samples = _read(key, dataset, report, trained)
        names = dataset.CLASSES
        report.data[key] = ImageCounts(samples.total, samples.total, len(names) if names else None)
        _check_labels(key, samples, names, count, bool(dataset.ann_file), report)
        _read_images(cfg, key, leaf, samples, report)
        splits[key] = samples
    _compare(splits, report)
    check_accuracy(cfg, count, several=any(samples.several for samples in splits.values()))


def _build(leaf, scope):
    """The dataset without its samples; None if it is of another kind, or cannot be built."""
    from mmpretrain.datasets import BaseDataset as ClassificationDataset

    leaf = {**leaf, 'pipeline': [], 'lazy_init': True, 'serialize_data': False}
    with DefaultScope.overwrite_default_scope(scope), logging_disabled(logging.WARNING):
        try:
            dataset = DATASETS.build(leaf)
        except Exception as error:  # the Runner builds the dataset again and then shows where it fails
            log_once(f'{leaf.get("type")} cannot be built: {type(error).__name__}: {error}', level=logging.DEBUG)
            return None
    known = isinstance(dataset, ClassificationDataset) and (_reads_folders(dataset) or _reads_json(dataset))
    return dataset if known else None


def _reads_folders(dataset):
    from mmpretrain.datasets import CustomDataset

    if not isinstance(dataset, CustomDataset):
        return False
    return all(getattr(type(dataset), name) is getattr(CustomDataset, name) for name in ('load_data_list', '_find_samples'))


def _reads_json(dataset):
    return all(getattr(type(dataset), name) is getattr(BaseDataset, name) for name in ('load_data_list', 'parse_data_info'))


def _read(key, dataset, report, trained):
    """The `Samples` of a dataset."""
    root = dataset.img_prefix or '.'
    if not _reads_folders(dataset):
        return _read_json(key, dataset)
    if not os.path.isdir(root):
        raise DataError(
            f'{key}: expected the folder of the images at {absolute(root)}, which does not exist. Set data_root, data_prefix.'
        )
    if dataset.ann_file:
        if not os.path.isfile(dataset.ann_file):
            raise DataError(
                f'{key}: expected the list of images at {absolute(dataset.ann_file)}, which does not exist. Set ann_file.'
            )
        return read_list(key, dataset.ann_file, root, dataset.with_label, report)
    if not dataset.with_label:
        return Samples(0, Counter(), {}, str)  # unlabeled: nothing to compare
    samples, folders = read_class_folders(key, root, dataset.extensions, report, trained)
    _check_names(key, root, folders, dataset, report)
    if dataset.CLASSES is None:
        dataset._metainfo['classes'] = tuple(folders)  # as mmpretrain does
    return samples


def _check_names(key, root, folders, dataset, report):
    """Compare the folders with the class names of the dataset."""
    names = list(dataset.CLASSES or ())
    if names and len(names) != len(folders):
        unknown = sorted(set(folders) - set(names)) if set(folders) & set(names) else [name for name in folders if name[0] == '.']
        absent = sorted(set(names) - set(folders)) if set(folders) & set(names) else []
        details = ''.join(
            f' {text}: {first_names(found)}.' for text, found in (('Not a class', unknown), ('Without a folder', absent)) if found
        )
        raise DataError(
            f'{key}: {type(dataset).__name__} has {len(names)} class names, but {absolute(root)} has {len(folders)} '
            f'folders.{details} Add or remove folders, also empty ones, until there is one for each class.'
        )
    if set(names) & set(folders) and names != folders:
        at = next(index for index, pair in enumerate(zip(names, folders, strict=True)) if pair[0] != pair[1])
        report.warnings.append(
            f'{key}: mmpretrain numbers the classes by the sorted folder names, but `metainfo` has another order: label {at} is '
            f'the folder {folders[at]!r} and would be shown as {names[at]!r}. List the classes in the order of the folders.'
        )


def _read_json(key, dataset):
    """The `Samples` of a dataset that reads mmpretrain's JSON."""
    try:
        dataset.full_init()
    except Exception as error:
        raise DataError(
            f'{key}: {dataset.ann_file} cannot be read as a file of annotations ({type(error).__name__}: {error}). Expected JSON '
            'with `metainfo` and `data_list`, each entry with `img_path` and `gt_label`.'
        ) from error
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    listing = FolderListing()
    missing = [info['img_path'] for info in infos if not listing.has(info['img_path'])]
    if missing:
        raise DataError(
            f'{key}: {len(missing)} of the {len(infos)} images in {dataset.ann_file} do not exist: {first_names(missing)}. Fix the '
            'file, data_root or data_prefix.'
        )
    given = [info.get('gt_label') for info in infos]
    several = any(isinstance(label, (list, tuple)) for label in given)
    labels = Counter(each for label in given for each in (label if isinstance(label, (list, tuple)) else [label]))
    invalid = [label for label in labels if not isinstance(label, int)]
    if invalid:
        raise DataError(
            f'{key}: expected integers as `gt_label` in {dataset.ann_file}, found {first_names(map(repr, invalid))}. Write the '
            'index of the class, from 0.'
        )
    return Samples(len(infos), labels, {}, lambda index: infos[index]['img_path'], several)


def _check_labels(key, samples, names, count, listed, report):
    """Compare the labels of a dataset with the number of classes of the head.

    Args:
        names: of the classes, or None.
        count: classes of the head, or None.
        listed: whether the labels are in a file; empty class folders were reported before.
    """
    labels = samples.labels
    if not labels:
        return
    if names and count and len(names) > count:
        raise DataError(
            f'{key} has {len(names)} classes, but the head has num_classes={count}: labels from {count} on could not be predicted. '
            f'Set num_classes={len(names)} in the model.'
        )
    limit = count or (len(names) if names else max(labels) + 1)
    beyond = sorted(label for label in labels if not 0 <= label < limit)
    if beyond:
        from_one = ' The labels start at 1: subtract one.' if min(labels) == 1 and beyond == [limit] else ''
        number = sum(labels[label] for label in beyond)
        raise DataError(
            f'{key}: expected labels of 0..{limit - 1} (num_classes={limit}), but {number} images have '
            f'{first_names(beyond)}.{from_one} Training would fail with an IndexError, and validation would count them as errors.'
        )
    if len(labels) == 1 and not samples.several:
        (label,) = labels
        report.warnings.append(
            f'{key}: all {samples.total} images have the label {label}, so a model that always predicts it scores 100. Check the '
            'labels, or the folders.'
        )
    elif listed and min(labels) == 1:
        report.warnings.append(
            f'{key}: no image has the label 0. If the labels start at 1, subtract one: mmpretrain numbers classes from 0.'
        )
    absent = [index for index in range(len(names or ())) if index not in labels]
    if listed and absent:
        shown = first_names([f'{index} {names[index]!r}' for index in absent])
        report.notes.append(f'{key}: {len(absent)} of the {len(names)} classes have no image: {shown}.')


def _read_images(cfg, key, leaf, samples, report):
    """Read some of the images with the `Load*` steps of the pipeline.

    Raises:
        InputError: the error of the first image that is invalid, and how many are.
    """
    steps = [step for step in leaf.get('pipeline') or () if type_name(step.get('type', '')).startswith('LoadImage')]
    if not steps or not samples.total:
        return
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        pipeline = GuardedPipeline(Compose(steps))
    pixels = Pixels(cfg, key, leaf)

    def read(index):
        path = samples.path(index)
        pixels.add((pipeline({'img_path': path}) or {}).get('img'), path)

    read_sample(key, range(samples.total), read, 'images')
    pixels.report(report)


def _compare(splits, report):
    """Compare the labels of equal folders in training and validation.

    Raises:
        DataError: a class has another label in validation than in training.
    """
    trained = next(((key, samples) for key, samples in splits.items() if key.startswith('train_')), None)
    for key, samples in splits.items():
        if trained is None or key.startswith('train_') or not samples.label_of or not trained[1].label_of:
            continue
        labels, trained_labels = samples.label_of, trained[1].label_of
        moved = [name for name in sorted(labels) if name in trained_labels and labels[name] != trained_labels[name]]
        only = {key: sorted(set(labels) - set(trained_labels)), trained[0]: sorted(set(trained_labels) - set(labels))}
        details = '; '.join(f'only {where} has {first_names(names)}' for where, names in only.items() if names)
        if moved:
            raise DataError(
                f'{key}: {len(moved)} class folders have another label than in {trained[0]}, such as {moved[0]!r}: '
                f'{labels[moved[0]]}, and {trained_labels[moved[0]]} in training{f" ({details})" if details else ""}. Without '
                'ann_file they are numbered by the sorted names of the folders: create the missing folders, also empty ones, in '
                'every dataset, or fix the lists.'
            )
        if details:
            report.warnings.append(
                f'{key}: the class folders are not those of {trained[0]}: {details}. What only one of them has is never trained, '
                'or never evaluated.'
            )


def _num_classes(cfg):
    """`num_classes` of the head; None if the config does not state it."""
    counts = [head.get('num_classes') for _, head in model_heads(cfg)]
    return next((count for count in counts if isinstance(count, int)), None)


def _check_config(cfg, count):
    """Raise for numbers of classes in the data preprocessor and the loss that differ from the head."""
    model = cfg.model.get('module') or cfg.model
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    augmented = (
        preprocessor.get('batch_augments') or preprocessor.get('to_onehot') or (model.get('train_cfg') or {}).get('augments')
    )
    own = type_name(model.get('type', '')) == 'FrequencyImageClassifier'  # sets it to that of the head
    found = preprocessor.get('num_classes')
    if count and augmented and not own and isinstance(found, int) and found != count:
        raise DataError(
            f'data_preprocessor.num_classes={found}, but the head has num_classes={count}: with batch augmentations the loss would '
            f'fail. Set data_preprocessor.num_classes={count}.'
        )
    for name, head in model_heads(cfg):
        loss = head.get('loss') if isinstance(head.get('loss'), dict) else {}
        if count and isinstance(loss.get('num_classes'), int) and loss['num_classes'] != count:
            raise DataError(
                f'{name}.loss.num_classes={loss["num_classes"]}, but the head has num_classes={count}: {loss.get("type")} would '
                f'fail in the first iteration. Set {name}.loss.num_classes={count}.'
            )

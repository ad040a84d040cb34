"""The datasets of a config: which files they name, whether these exist, and whether the number of classes fits the model.

Nothing is built or read here, and only folders are opened; `segmentation` and `coco` look at the files themselves.
"""

import os
from dataclasses import dataclass

from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS, MODELS

from mmfreq.config.reading import absolute, is_remote
from mmfreq.errors import DataError

IMAGE_KEYS = ('img_path', 'img', 'img_dir', '')  # the keys of `data_prefix` that name image folders, in all libraries


def check_data(cfg, loaders=('train_dataloader', 'val_dataloader')):
    """Check that the paths of all datasets exist, and that their classes fit the heads (`check_classes`). Takes milliseconds.

    Raises:
        DataError: all missing paths, with the option that overrides each; or the first number of classes that does not fit.
    """
    leaves = loader_datasets(cfg, loaders)
    missing = [path for key, dataset in leaves for path in missing_paths(key, dataset)]
    if missing:
        raise DataError(_message(cfg, leaves, missing))
    for key, dataset in leaves:
        check_classes(cfg, key, dataset)


def loader_datasets(cfg, loaders):
    """`leaf_datasets` of several data loaders, of those that the config has."""
    return [leaf for name in loaders if cfg.get(name) for leaf in leaf_datasets(cfg[name].get('dataset'), f'{name}.dataset')]


def leaf_datasets(dataset, key):
    """Yield `(config key, dataset config)` of the datasets that read files, inside wrappers that repeat or concatenate them."""
    if not dataset:
        return
    children = [('dataset', dataset.get('dataset'))]
    children += [(f'datasets.{index}', child) for index, child in enumerate(dataset.get('datasets') or [])]
    children = [(name, child) for name, child in children if child]
    if not children:
        yield key, dataset
    for name, child in children:
        yield from leaf_datasets(child, f'{key}.{name}')


@dataclass
class MissingPath:
    """A path of a config that does not exist or is empty: its config key, its value, its absolute form, and what is wrong."""

    key: str
    value: str
    path: str
    fault: str

    def __str__(self):
        return f'  {self.key}={self.value!r} {self.fault}: looked at {self.path}'


def missing_paths(key, dataset):
    """Yield a `MissingPath` for the data root, or else for each folder and annotation file below it."""
    root = dataset.get('data_root') or ''
    if is_remote(root):
        return
    if root and not os.path.isdir(root):
        yield MissingPath(f'{key}.data_root', root, str(absolute(root)), 'is not a folder')
        return
    for name, prefix in _prefixes(dataset).items():
        if not prefix or is_remote(prefix):
            continue
        full = os.path.join(root, prefix)
        prefix_key = f'{key}.data_prefix' + (f'.{name}' if name else '')
        if not os.path.isdir(full):
            yield MissingPath(prefix_key, prefix, str(absolute(full)), 'is not a folder')
        elif name in IMAGE_KEYS and not holds_a_file(full):
            yield MissingPath(prefix_key, prefix, str(absolute(full)), 'contains no file')
    ann_file = dataset.get('ann_file') or ''
    if ann_file and not is_remote(ann_file) and not os.path.exists(os.path.join(root, ann_file)):
        yield MissingPath(f'{key}.ann_file', ann_file, str(absolute(os.path.join(root, ann_file))), 'does not exist')


def holds_a_file(folder):
    """Whether there is a file anywhere below a folder; stops at the first."""
    with os.scandir(folder) as entries:
        return any(entry.is_file() or (entry.is_dir() and holds_a_file(entry.path)) for entry in entries)


def _prefixes(dataset):
    prefix = dataset.get('data_prefix') or {}
    return {name: value or '' for name, value in prefix.items()} if isinstance(prefix, dict) else {'': prefix}


def _message(cfg, leaves, missing):
    overrides = ' '.join(f'{path.key}=/path/to/{os.path.basename(path.value.rstrip("/"))}' for path in missing)
    lines = [
        f'Expected the data at the paths in the config; {len(missing)} of them do not exist:',
        *map(str, missing),
        f'Override them with --cfg-options {overrides}',
    ]
    if cfg.get('default_scope') == 'mmseg':
        folders = dict.fromkeys(folder for _, leaf in leaves for folder in _prefixes(leaf).values() if folder)
        lines.append('Expected below the data root (images and label PNGs with the same names):')
        lines += [f'  {folder}/' for folder in folders]
    return '\n'.join(lines)


def check_classes(cfg, key, dataset):
    """Compare the number of classes of a dataset with `num_classes` of the model's heads.

    In mmseg and mmpretrain a head must predict at least as many; in mmdet exactly as many, as its metrics fail on other labels.
    Heads that do not depend on classes (proposals, class-agnostic masks, edges) are skipped, and so is what the config does not
    state.

    Raises:
        DataError: with the dataset, the head and both numbers.
    """
    scope = cfg.get('default_scope', 'mmengine')
    classes = dataset_classes(dataset, scope)
    if isinstance(classes, str):
        raise DataError(
            f'{key}.metainfo.classes: expected a list of names, got the string {classes!r}, each letter of which counts as a '
            f'class. For a single class write classes=({classes!r},), with the comma.'
        )
    if not classes:
        return
    counts = {name: head.get('num_classes') for name, head in model_heads(cfg)}
    wrong = [
        name
        for name, count in counts.items()
        if isinstance(count, int) and count != len(classes) and (scope == 'mmdet' or count < len(classes))
    ]
    if (
        scope == 'mmseg'
        and len(classes) == 2
        and 'IoUMetric' not in str([cfg.get(f'{name}_evaluator') for name in ('val', 'test')])
    ):
        wrong = [name for name in wrong if counts[name] != 1]  # one sigmoid map, which a custom metric may score
    if not wrong:
        return
    name, count = wrong[0], counts[wrong[0]]
    if count < len(classes):
        consequence = f'labels from {count} on would have no score'
    else:
        consequence = f'predictions from {len(classes)} on would have no class, and validation would end with an IndexError'
    options = ' '.join(f'{each}.num_classes={len(classes)}' for each in wrong)
    remedy = f'Set --cfg-options {options}, or list {"fewer" if count < len(classes) else "all"} classes in its `metainfo`.'
    if (dataset.get('metainfo') or {}).get('classes') is None and (scope != 'mmpretrain' or dataset.get('classes') is None):
        remedy = (
            f'These are the default classes of {dataset.get("type")}: if the data have others, set metainfo=dict(classes=(...)) in '
            f'every dataset. Otherwise set --cfg-options {options}.'
        )
    if scope == 'mmseg' and count == 1:
        remedy += ' A single sigmoid map is num_classes=2, out_channels=1.'
    raise DataError(
        f'{key} ({dataset.get("type")}) has {len(classes)} classes, but {name} has num_classes={count}: {consequence}. {remedy}'
    )


def dataset_classes(dataset, scope):
    """Class names of a dataset, from its config or from its registered class; None if neither has them.

    mmpretrain's datasets may name them in the argument `classes`, too. A string is read as the path of a file with one name per
    line; one that is not a file is returned as it is.
    """
    configured = (dataset.get('metainfo') or {}).get('classes')
    cls = dataset_class(dataset, scope)
    if configured is None and scope == 'mmpretrain' and dataset.get('classes') is not None:
        configured = dataset['classes']  # mmpretrain's own argument, to which `metainfo` is preferred
        if isinstance(configured, str):
            configured = _names_in_file(configured)
    if isinstance(configured, str):
        load_metainfo = getattr(cls, '_load_metainfo', None)  # mmengine's own reading of a file of names
        return load_metainfo({'classes': configured})['classes'] if load_metainfo else None
    if configured is not None:
        return configured if isinstance(configured, (list, tuple)) else None
    return getattr(cls, 'METAINFO', {}).get('classes')


def _names_in_file(path):
    """The lines of a file of names; None if it cannot be read, which is left to the Runner."""
    try:
        return list_from_file(os.path.expanduser(path))
    except OSError:
        return None


def dataset_class(dataset, scope):
    """The class of a dataset config's `type`; None if the registry does not have it."""
    cls = dataset.get('type')
    if isinstance(cls, str):
        with DATASETS.switch_scope_and_registry(dataset.get('_scope_') or scope) as registry:
            cls = registry.get(cls)
    return cls


def model_heads(cfg):
    """A list of (config key, config) of the heads that predict the classes of the dataset."""
    model, key = cfg.model.get('module') or cfg.model, 'model'
    if isinstance(model.get('detector'), dict):  # a mean teacher of mmdet
        model, key = model['detector'], 'model.detector'
    return [(name.replace('model', key, 1), head) for name, head in _heads(model, cfg.get('default_scope', 'mmengine'))]


def _heads(model, scope):
    """Yield (config key, config) of the heads that predict the classes of the dataset."""
    if scope == 'mmseg':
        yield from _each('model.decode_head', model.get('decode_head'))
        for name, head in _each('model.auxiliary_head', model.get('auxiliary_head')):
            if has_plain_losses(head):  # others may predict something else, as STDC's head of edges
                yield name, head
    elif scope == 'mmpretrain':
        yield from _each('model', model if 'num_classes' in model else None)  # mmfreq's image classifier
        yield from _each('model.head', model.get('head'))
    elif scope == 'mmdet':
        yield from _each('model.bbox_head', model.get('bbox_head'))
        yield from _each('model.mask_head', model.get('mask_head'))
        roi_head = model.get('roi_head') or {}
        yield from _each('model.roi_head.bbox_head', roi_head.get('bbox_head'))
        for name, head in _each('model.roi_head.mask_head', roi_head.get('mask_head')):
            if not head.get('class_agnostic'):
                yield name, head


def has_plain_losses(head):
    """Whether a head computes its losses as mmseg's `BaseDecodeHead` does, from one map per class of the dataset."""
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    cls = head.get('type')
    if isinstance(cls, str):
        with MODELS.switch_scope_and_registry('mmseg') as registry:
            cls = registry.get(cls)
    return isinstance(cls, type) and issubclass(cls, BaseDecodeHead) and cls.loss_by_feat is BaseDecodeHead.loss_by_feat


def _each(key, heads):
    if isinstance(heads, (list, tuple)):
        yield from ((f'{key}.{index}', head) for index, head in enumerate(heads))
    elif heads:
        yield key, heads


class FolderListing:
    """File names by folder. Each folder is listed once, as testing for single files is slow on network file systems."""

    def __init__(self):
        self._names = {}

    def names(self, folder):
        """The names in a folder; empty if it does not exist."""
        folder = folder or '.'
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[folder] = {entry.name for entry in entries}
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = set()
        return self._names[folder]

    def has(self, path):
        """Whether a path exists."""
        folder, name = os.path.split(path)
        return name in self.names(folder)

    def paths(self):
        """The paths of everything in the folders that were listed so far."""
        return [os.path.join(folder, name) for folder, names in self._names.items() for name in names]


def first_names(paths, count=3, keep_order=False):
    """The first few of some names, for a message: 'a, b, c and 5 more'; in alphabetical order unless `keep_order`."""
    names = list(map(str, paths)) if keep_order else sorted(map(str, paths))
    return ', '.join(names[:count]) + (f' and {len(names) - count} more' if len(names) > count else '')

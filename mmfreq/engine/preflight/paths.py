"""Are the folders and files of the data where the config says?"""

import os
from dataclasses import dataclass

from mmfreq.engine.errors import DataError
from mmfreq.engine.paths import absolute, is_remote
from mmfreq.engine.preflight.classes import check_classes

IMAGE_KEYS = ('img_path', 'img', 'img_dir', '')  # the keys of `data_prefix` that name image folders, over the libraries


@dataclass
class Missing:
    """One path that a config names and that is not as it should be."""

    key: str
    given: str
    looked: str
    fault: str

    def __str__(self):
        return f'  {self.key}={self.given!r} {self.fault}: looked at {self.looked}'


def check_data(cfg, loaders=('train_dataloader', 'val_dataloader')):
    """Raise if data of the loaders are missing, or the classes of a data set do not fit a head (see `check_classes`).

    Only folders are opened, and only until their first file, so this takes milliseconds; `pairs` and `coco` look closer.

    Raises:
        DataError: naming each path, where it looked, and the option that overrides it.
    """
    leaves = leaves_of(cfg, loaders)
    faults = [fault for key, dataset in leaves for fault in missing_paths(key, dataset)]
    if faults:
        raise DataError(_message(cfg, leaves, faults))
    for key, dataset in leaves:
        check_classes(cfg, key, dataset)


def leaves_of(cfg, loaders):
    """`leaf_datasets` of several loaders, those that the config has."""
    return [leaf for name in loaders if cfg.get(name) for leaf in leaf_datasets(cfg[name].get('dataset'), f'{name}.dataset')]


def leaf_datasets(dataset, key):
    """Yield `(config key, dataset config)` of the datasets that read files, inside wrappers that repeat or join them."""
    if not dataset:
        return
    children = [('dataset', dataset.get('dataset'))]
    children += [(f'datasets.{index}', child) for index, child in enumerate(dataset.get('datasets') or [])]
    children = [(name, child) for name, child in children if child]
    if not children:
        yield key, dataset
    for name, child in children:
        yield from leaf_datasets(child, f'{key}.{name}')


def missing_paths(key, dataset):
    """Yield a `Missing` for the data root, or else for each folder and annotation file under it."""
    root = dataset.get('data_root') or ''
    if is_remote(root):
        return
    if root and not os.path.isdir(root):
        yield Missing(f'{key}.data_root', root, str(absolute(root)), 'is no folder')
        return
    for name, prefix in _prefixes(dataset).items():
        full = os.path.join(root, prefix)
        where = f'{key}.data_prefix' + (f'.{name}' if name else '')
        if not prefix or is_remote(prefix):
            continue
        if not os.path.isdir(full):
            yield Missing(where, prefix, str(absolute(full)), 'is no folder')
        elif name in IMAGE_KEYS and not holds_a_file(full):
            yield Missing(where, prefix, str(absolute(full)), 'holds no file')
    listed = dataset.get('ann_file') or ''
    if listed and not is_remote(listed) and not os.path.exists(os.path.join(root, listed)):
        yield Missing(f'{key}.ann_file', listed, str(absolute(os.path.join(root, listed))), 'is not there')


def holds_a_file(folder):
    """Whether there is a file anywhere under a folder; stops at the first."""
    with os.scandir(folder) as entries:
        return any(entry.is_file() or (entry.is_dir() and holds_a_file(entry.path)) for entry in entries)


def _prefixes(dataset):
    prefix = dataset.get('data_prefix') or {}
    return {name: value or '' for name, value in prefix.items()} if isinstance(prefix, dict) else {'': prefix}


def _message(cfg, leaves, faults):
    lines = [f'{len(faults)} of the paths in the config are not there:', *map(str, faults)]
    changes = ' '.join(f'{fault.key}=/path/to/{os.path.basename(fault.given.rstrip("/"))}' for fault in faults)
    lines.append(f'Name the right ones: --cfg-options {changes}')
    if cfg.get('default_scope') == 'mmseg':
        folders = dict.fromkeys(folder for _, leaf in leaves for folder in _prefixes(leaf).values() if folder)
        lines.append('Expected under the data root (pictures and label PNGs of the same names):')
        lines += [f'  {folder}/' for folder in folders]
    return '\n'.join(lines)

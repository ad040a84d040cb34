"""Which files are there: each folder is listed once, since asking for each file is slow on network file systems."""

import os
from dataclasses import dataclass

from mmengine.registry import DATASETS

from mmfreq.config.reading import absolute, is_remote
from mmfreq.errors import DataError


class Folders:
    """Names of files by folder, listed at the first question."""

    def __init__(self):
        self._names = {}

    def names(self, folder):
        """The names in one folder; none where there is no such folder."""
        folder = folder or '.'
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[folder] = {entry.name for entry in entries}
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = set()
        return self._names[folder]

    def holds(self, path):
        """Whether there is a file of this path."""
        folder, name = os.path.split(path)
        return name in self.names(folder)

    def listed(self):
        """Paths of everything in the folders that were asked for."""
        return [os.path.join(folder, name) for folder, names in self._names.items() for name in names]


def first_names(paths, count=3):
    """The first few of some paths, by name, for a message."""
    names = sorted(str(path) for path in paths)
    return ', '.join(names[:count]) + (f' and {len(names) - count} more' if len(names) > count else '')


# The number of classes of a data set against that of the model's heads, from the config alone.


def check_classes(cfg, key, dataset):
    """Raise if the classes of a data set do not fit one of the model's heads.

    mmseg and mmpretrain: a head must predict at least as many; mmdet: as many, since its metrics know no label beyond. Heads
    that do not depend on classes (proposals, class-agnostic masks) do not count, nor does what is not stated in the config.

    Raises:
        DataError: naming the data set, the head, and both numbers.
    """
    scope = cfg.get('default_scope', 'mmengine')
    classes = dataset_classes(dataset, scope)
    if isinstance(classes, str):
        raise DataError(
            f'{key}.metainfo.classes is the text {classes!r}, which counts as a class for each letter; expected a list of names: '
            f'with one name write classes=({classes!r},), with the comma.'
        )
    if not classes:
        return
    model = cfg.model.get('module') or cfg.model
    for name, head in _heads(model, scope):
        count = head.get('num_classes')
        if not isinstance(count, int) or count == len(classes) or (scope != 'mmdet' and count > len(classes)):
            continue
        if count < len(classes):
            why = f'labels from {count} on would have no score'
        else:
            why = f'predictions from {len(classes)} on would be no class, which ends validation with an IndexError'
        raise DataError(
            f'{key} ({dataset.get("type")}) has {len(classes)} classes and {name} predicts num_classes={count}: {why}. '
            f'Set num_classes={len(classes)} in every head (--cfg-options {name}.num_classes={len(classes)} ...), or name '
            f'{"fewer" if count < len(classes) else "all"} classes in its `metainfo`.'
        )


def dataset_classes(dataset, scope):
    """The class names a data set will have, from its config or from its registered class; None if neither tells.

    A text stands for a file with a name in each line, where there is such a file; another text is returned as it is.
    """
    stated = (dataset.get('metainfo') or {}).get('classes')
    kind = dataset_kind(dataset, scope)
    if isinstance(stated, str):
        read = getattr(kind, '_load_metainfo', None)  # mmengine's own reading of a file of names
        return read({'classes': stated})['classes'] if read else None
    if stated is not None:
        return stated if isinstance(stated, (list, tuple)) else None
    return getattr(kind, 'METAINFO', {}).get('classes')


def dataset_kind(dataset, scope):
    """The class that a data set's config names; None if there is no such class."""
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(dataset.get('_scope_') or scope) as registry:
            kind = registry.get(kind)
    return kind


def _heads(model, scope):
    """Yield (key, config) of the heads whose `num_classes` is that of the data."""
    if scope == 'mmseg':
        yield from _each('model.decode_head', model.get('decode_head'))
        yield from _each('model.auxiliary_head', model.get('auxiliary_head'))
    elif scope == 'mmpretrain':
        yield from _each('model', model if 'num_classes' in model else None)  # our image classifier
        yield from _each('model.head', model.get('head'))
    elif scope == 'mmdet':
        yield from _each('model.bbox_head', model.get('bbox_head'))
        yield from _each('model.mask_head', model.get('mask_head'))
        roi_head = model.get('roi_head') or {}
        yield from _each('model.roi_head.bbox_head', roi_head.get('bbox_head'))
        for name, head in _each('model.roi_head.mask_head', roi_head.get('mask_head')):
            if not head.get('class_agnostic'):
                yield name, head


def _each(key, heads):
    if isinstance(heads, (list, tuple)):
        yield from ((f'{key}.{index}', head) for index, head in enumerate(heads))
    elif heads:
        yield key, heads


# The size at which a config trains, read from its pipeline.


def training_crop(cfg):
    """(H, W) of the smallest picture that the training pipeline gives to the model; None if no step states a size.

    The data preprocessor's `size` comes first, to which batches are padded. Otherwise it is that of the last step that states
    one; of several scales the smallest counts. Where the ratio of sides is kept, a picture is taken as a square of the short side.
    """
    model = cfg.model.get('module') or cfg.model
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if preprocessor.get('size'):
        return tuple(preprocessor['size'])
    train = cfg.get('train_dataloader') or {}
    outer = (train.get('dataset') or {}).get('pipeline') or []
    leaves = list(leaf_datasets(train.get('dataset'), ''))
    inner = leaves[0][1].get('pipeline') or [] if leaves else []
    sizes = [size for step in (*inner, *outer) for size in _sizes(step)]
    return sizes[-1] if sizes else None


def _sizes(step):
    """Yield the (H, W) that one step gives, at most one."""
    if step.get('transforms'):  # a choice of lists of steps: the smallest that any of them ends with
        ends = []
        for branch in step['transforms']:
            found = [size for each in (branch if isinstance(branch, (list, tuple)) else [branch]) for size in _sizes(each)]
            ends += found[-1:]
        if ends:
            yield min(ends, key=lambda size: size[0] * size[1])
        return
    crop = step.get('crop_size')
    if crop:
        yield (crop, crop) if isinstance(crop, int) else tuple(crop)[:2]
        return
    scales = step.get('scales') or step.get('scale') or step.get('img_scale')
    if not scales:
        return
    scales = [scales] if not isinstance(scales, (list, tuple)) or isinstance(scales[0], (int, float)) else scales
    pairs = [(scale, scale) if isinstance(scale, int) else tuple(scale) for scale in scales]
    pairs = [pair for pair in pairs if len(pair) == 2 and all(isinstance(side, int) and side > 0 for side in pair)]
    if not pairs:
        return
    width, height = min(pairs, key=min)
    keeps = step.get('keep_ratio', 'Choice' in str(step.get('type')) or step.get('type') == 'RandomResize')
    yield (min(width, height),) * 2 if keeps else (height, width)


# Are the folders and files of the data where the config says?


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

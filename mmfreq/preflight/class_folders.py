"""Class folders and lists of images with labels, read as mmpretrain 1.2 reads them.

`CustomDataset`, and `ImageNet` without a list, numbers the classes by the sorted names of all folders, also of empty and hidden
ones. A folder that only training or only validation has therefore shifts the labels of all later classes, silently.
"""

import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from mmfreq.config.reading import absolute
from mmfreq.errors import DataError
from mmfreq.preflight.data import FolderListing, first_names

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp', '.gif')
SPLITS = {'train', 'training', 'val', 'valid', 'validation', 'test', 'testing'}


@dataclass
class ClassFolder:
    """One folder below the image folder of a dataset.

    Attributes:
        images: the number of files with one of the dataset's extensions, at any depth.
        skipped: suffix -> number of images with another extension.
        subfolders: the number of folders in it.
        no_files: paths that are named as images, but are folders or links to nothing.
    """

    images: int = 0
    skipped: Counter = field(default_factory=Counter)
    subfolders: int = 0
    no_files: list[str] = field(default_factory=list)


@dataclass
class Samples:
    """The images of a classification dataset.

    Attributes:
        labels: label -> number of images.
        label_of: folder -> label, where a folder stands for one class; else empty.
        path: a function from the number of a sample to its path.
        several: whether an image may have several labels.
    """

    total: int
    labels: Counter
    label_of: dict[str, int]
    path: Callable[[int], str]
    several: bool = False


def read_folder(root, folder, extensions):
    """The `ClassFolder` of one folder, and the paths of its images relative to `root`, sorted."""
    content, paths, queue = ClassFolder(), [], [folder]
    while queue:
        at = queue.pop()
        with os.scandir(os.path.join(root, at)) as entries:
            for entry in entries:
                if not entry.name.startswith('.') and entry.is_file():
                    name = entry.name.lower()
                    if name.endswith(extensions):
                        paths.append(f'{at}/{entry.name}')
                    elif name.endswith(IMAGE_SUFFIXES):
                        content.skipped[os.path.splitext(name)[1]] += 1
                    continue
                if entry.is_dir():
                    queue.append(f'{at}/{entry.name}')
                    content.subfolders += at == folder
                if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.is_file():
                    content.no_files.append(f'{at}/{entry.name}')
    content.images = len(paths)
    return content, sorted(paths)


def read_class_folders(where, root, extensions, report, trained):
    """List the class folders of a dataset, each once.

    Args:
        where: the config key, for messages.
        extensions: of the dataset, in lower case.
        trained: whether it is a training dataset.

    Returns:
        The `Samples`, and the names of the folders in the order of the labels.

    Raises:
        DataError: there is no class folder or no image, or the folders are not classes.
    """
    with os.scandir(root) as entries:
        is_folder = {entry.name: entry.is_dir() for entry in entries}
    names = sorted(name for name, folder in is_folder.items() if folder)
    loose = [name for name, folder in is_folder.items() if not folder and name.lower().endswith(IMAGE_SUFFIXES)]
    if not names:
        raise DataError(
            f'{where}: expected one folder of images for each class in {absolute(root)}, found {len(loose)} images and no folder. '
            'Sort the images into class folders, or set ann_file to a list with one "PATH LABEL" in each line.'
        )
    folders = {name: read_folder(root, name, extensions)[0] for name in names}
    _check_classes(where, root, folders, report)
    if loose:
        report.warnings.append(
            f'{where}: {len(loose)} images in {root} are in no class folder and are not read: {first_names(loose)}.'
        )
    _report_skipped(where, folders, extensions, report)
    no_files = [path for folder in folders.values() for path in folder.no_files]
    if no_files:
        report.warnings.append(
            f'{where}: {len(no_files)} names in {root} end as those of images, but are folders or links to nothing, and are not '
            f'read: {first_names(no_files)}.'
        )
    empty = [name for name in names if not folders[name].images]
    if empty:
        (report.warnings if trained else report.notes).append(
            f'{where}: {len(empty)} folders have no image but count as a class: {first_names(empty)}. Add images, or remove the '
            'folders in every dataset.'
        )
    return _samples(root, folders, extensions), names


def _check_classes(where, root, folders, report):
    """Raise for folders that are not classes."""
    names = list(folders)
    if not any(folder.images for folder in folders.values()):
        skipped = sum((folder.skipped for folder in folders.values()), Counter())
        found = f'{first_names(skipped)} files' if skipped else 'no image'
        remedy = f'Set extensions={tuple(skipped)!r} of the dataset.' if skipped else 'Check data_root and data_prefix.'
        raise DataError(f'{where}: the {len(names)} folders in {absolute(root)} have {found} and nothing that is read. {remedy}')
    deep = any(folder.subfolders for folder in folders.values())
    if SPLITS.issuperset(name.lower() for name in names) and deep:
        raise DataError(
            f'{where}: the folders in {absolute(root)} are {first_names(names)}, which would be the classes. Set data_prefix to '
            f'the folder of this dataset, such as data_prefix={names[0]!r}.'
        )
    if len(names) == 1 and folders[names[0]].subfolders > 1:
        raise DataError(
            f'{where}: {absolute(root)} has only the folder {names[0]!r}, which would be the only class, and '
            f'{folders[names[0]].subfolders} folders in it. If these are the classes, set data_prefix to '
            f'{os.path.join(root, names[0])!r}.'
        )
    hidden = [name for name in names if name.startswith('.')]
    if hidden:
        report.warnings.append(
            f'{where}: the hidden folder {first_names(hidden)} counts as a class and comes first, so it moves the labels of all '
            'others. Remove it.'
        )
    nested = [name for name, folder in folders.items() if folder.subfolders]
    if nested:
        report.notes.append(
            f'{where}: {len(nested)} class folders have folders in them, whose images belong to the same class: '
            f'{first_names(nested)}.'
        )


def _report_skipped(where, folders, extensions, report):
    skipped = sum((folder.skipped for folder in folders.values()), Counter())
    if skipped:
        found = ', '.join(f'{count} {suffix}' for suffix, count in sorted(skipped.items()))
        report.warnings.append(
            f'{where}: images are skipped because of their suffix ({found}). To read them, add the suffix to '
            f'extensions={extensions!r} of every dataset.'
        )


def _samples(root, folders, extensions):
    names = list(folders)
    ends = list(accumulate(folder.images for folder in folders.values()))

    def path(index):
        folder = bisect_right(ends, index)
        _, paths = read_folder(root, names[folder], extensions)
        return os.path.join(root, paths[index - ends[folder]])

    label_of = {name: label for label, name in enumerate(names)}
    labels = Counter({label_of[name]: folder.images for name, folder in folders.items() if folder.images})
    return Samples(ends[-1], labels, label_of, path)


def read_list(where, ann_file, root, with_label, report):
    """Read a list of images, one 'PATH LABEL' in each line, and look for the images; each folder is listed once.

    Raises:
        DataError: a line that mmpretrain cannot read, or images that do not exist.
    """
    try:
        with open(ann_file, encoding='utf-8') as file:
            lines = file.read().split('\n')
    except UnicodeDecodeError as error:
        raise DataError(f'{where}: expected text in UTF-8, but {ann_file} is not ({error}). Convert it.') from error
    lines = lines[:-1] if lines and not lines[-1] else lines
    rows = [_row(where, ann_file, number, line, with_label) for number, line in enumerate(lines, 1)]
    if not rows:
        raise DataError(f'{where}: expected one image in each line, but {ann_file} is empty. Set ann_file to the list of images.')
    listing = FolderListing()
    missing = [name for name, _ in rows if not listing.has(os.path.join(root, name))]
    if missing:
        raise DataError(
            f'{where}: {len(missing)} of the {len(rows)} images in {ann_file} do not exist: {first_names(missing)}. '
            f'Expected the first at {absolute(os.path.join(root, min(missing)))}. {_why_missing(missing, root, listing)}'
        )
    _report_duplicates(where, ann_file, rows, report)
    seen: dict[str, set[int]] = {}
    for name, label in rows:
        if '/' in name and label is not None:
            seen.setdefault(name.split('/')[0], set()).add(label)
    single = all(len(found) == 1 for found in seen.values())
    label_of = {folder: min(found) for folder, found in seen.items()} if single else {}
    label_of = label_of if len(set(label_of.values())) == len(label_of) > 1 else {}
    labels = Counter(label for _, label in rows if label is not None)
    return Samples(len(rows), labels, label_of, lambda index: os.path.join(root, rows[index][0]))


def _row(where, ann_file, number, line, with_label):
    """(path, label) of a line."""
    if not with_label:
        return line.rstrip('\r'), None
    name, separator, label = line.strip().rpartition(' ')
    if separator and re.fullmatch(r'[+-]?\d+', label):
        return name, int(label)
    shown = repr(line[:80]) if line.strip() else 'empty'
    raise DataError(
        f'{where}: expected a path, one space and an integer label in each line of {ann_file}, but line {number} is {shown}. '
        'Write the list in this form; labels are numbers from 0.'
    )


def _why_missing(missing, root, listing):
    """The likely reason why the images of a list do not exist, and what to do."""
    name = min(missing)
    if '\\' in name and listing.has(os.path.join(root, name.replace('\\', '/'))):
        return 'The list was written on Windows: replace \\ by / in it.'
    if name.startswith('\ufeff'):
        return 'The list begins with a byte order mark: save it as UTF-8 without one.'
    folder, base = os.path.split(os.path.join(root, name))
    suffixes = sorted({other[len(base) :] for other in listing.names(folder) if other.startswith(f'{base}.')})
    if suffixes:
        return f'The list has names without the suffix {suffixes[0]!r}: add it.'
    if '/' in name and listing.has(os.path.join(root, name.partition('/')[2])):
        return f'The folder {name.partition("/")[0]!r} is in data_prefix and in the list: remove it from one of them.'
    return 'Fix the list, data_root or data_prefix.'


def _report_duplicates(where, ann_file, rows, report):
    if len({name for name, _ in rows}) == len(rows):
        return
    labels: dict[str, set] = {}
    for name, label in rows:
        labels.setdefault(name, set()).add(label)
    conflicting = [name for name, found in labels.items() if len(found) > 1]
    if conflicting:
        report.warnings.append(
            f'{where}: {len(conflicting)} images have several labels in {ann_file}: {first_names(conflicting)}. Keep one line for '
            'each.'
        )
    if len(rows) - len(labels):
        report.notes.append(f'{where}: {len(rows) - len(labels)} lines of {ann_file} repeat an image.')

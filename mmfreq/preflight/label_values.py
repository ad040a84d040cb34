"""Which classes occur in the label maps of a segmentation dataset, and the likely reason if one does not.

mmseg drops ignored pixels silently, from the loss and from the score. If only one class is left, a model that predicts it
everywhere has mIoU 100. A class that is rare in a sample of the label maps is usual, so it is only noted.
"""

import time
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from mmfreq.errors import InputError

READ_SECONDS = 2.0  # for label maps beyond the sample, of all datasets of a run together
MANY_MAPS = 32  # the whole dataset must have at least so many, and two per class, before an absent class is a warning
FEW_CLASSES = 5  # with more, one that does not occur is usually rare
FILES = 32  # files whose values are read for a message


@dataclass
class LabelMaps:
    """The label maps of one dataset that were read.

    Attributes:
        total: label maps of the dataset.
        paths: those that were read.
        ids: class ids, and ignored ids, after the pipeline's loading transform.
        ignored: the number of maps with only ignored pixels.
        by_ids: the paths of the maps with each set of ids.
    """

    total: int
    ignore_index: int | None = 255
    paths: list[str] = field(default_factory=list)
    ids: set[int] = field(default_factory=set)
    ignored: int = 0
    by_ids: dict[frozenset, list[str]] = field(default_factory=dict)

    def add(self, labels, path):
        """Count a label map as it was loaded."""
        ids = (
            set(np.bincount(labels.ravel()).nonzero()[0].tolist()) if labels.dtype == np.uint8 else set(np.unique(labels).tolist())
        )
        self.ids |= ids
        self.paths.append(path)
        self.ignored += ids == {self.ignore_index}
        self.by_ids.setdefault(frozenset(ids), []).append(path)

    def of(self, ids):
        """The paths of the maps with exactly these ids."""
        return self.by_ids.get(frozenset(ids), [])

    def are_all(self):
        """Whether all maps of the dataset were read."""
        return len(self.paths) == self.total

    def are_many(self, count):
        """Whether all maps were read, and these are so many that each of `count` classes should occur."""
        return self.are_all() and self.total >= max(MANY_MAPS, 2 * count)

    def missing(self, count):
        """The class ids below `count` that do not occur."""
        return [index for index in range(count) if index not in self.ids]

    def __str__(self):
        read = len(self.paths)
        return f'the {read} label maps' if read == self.total else f'the {read} label maps that were read (of {self.total})'


def read_more(maps, samples, load, count, seconds):
    """Read further label maps, in random order, until every class below `count` has occurred or the time is over.

    Args:
        load: from a sample dict to its label map, or None.
    """
    end = time.perf_counter() + seconds
    known = set(maps.paths)
    for index in np.random.default_rng(0).permutation(len(samples)):
        if not maps.missing(count) or time.perf_counter() > end:
            return
        path = samples[index]['seg_map_path']
        if path in known:
            continue
        try:
            labels = load(samples[index])
        except InputError:  # found again, and raised, when the run reads this file
            continue
        if labels is not None:
            maps.add(labels, path)


def file_values(paths):
    """The values in label files with one channel; None if a file has colors or cannot be read."""
    values = set()
    for path in paths[:FILES]:
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image)
        except (OSError, ValueError):
            return None
        if pixels.ndim != 2:
            return None
        values |= set(np.unique(pixels.astype(np.int64)).tolist())
    return values


def report_classes(key, maps, dataset, report, trained=True, seen=()):
    """Report the classes of a dataset that do not occur in its label maps: as a warning if it is probably a mistake, else a note.

    Args:
        dataset: of mmseg, for its class names and `reduce_zero_label`.
        trained: whether it is a training dataset.
        seen: class ids that the run's training data have with the same encoding.

    Raises:
        InputError: all pixels of all label maps are ignored.
    """
    names = list(dataset.metainfo.get('classes') or ())
    if not maps.paths:
        return
    if maps.ignored == len(maps.paths):
        _report_ignored(key, maps, dataset, report, trained)
        return
    if len(names) == 2 and not dataset.reduce_zero_label:
        _report_mixed(key, maps, names, report)
    missing = maps.missing(len(names))
    if len(names) < 2 or not missing:
        return
    values = file_values(maps.paths)
    shown = ', '.join(f'{index} {names[index]!r}' for index in missing[:3])
    more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
    held = f'; their files hold the values {number_list(values)}' if values else ''
    if len(missing) == 1:
        text = f'{key}: class {shown} never occurs in {maps}{held}.'
    else:
        text = f'{key}: {len(missing)} of the {len(names)} classes never occur in {maps} ({shown}{more}){held}.'
    one_left = len(missing) == len(names) - 1
    if one_left:
        left = next(name for index, name in enumerate(names) if index not in missing)
        text += f' Only {left!r} is left, and a model that predicts it everywhere scores 100.'
    elif not trained:
        text += ' The mean of the scores leaves them out.'
    if set(missing) <= set(seen):
        report.notes.append(f'{text} The training data have {"this class" if len(missing) == 1 else "these classes"}.')
        return
    reason = _reason(names, missing, values, dataset, maps)
    rare = len(names) > FEW_CLASSES and values and maps.ignore_index in values and missing == [len(names) - 1]
    probable = one_left or (len(missing) == 1 and reason) or (maps.are_many(len(names)) and trained and not rare)
    if reason and (one_left or len(missing) == 1):
        text += f' {reason}'
    elif probable:
        text += ' Check the values of the files, the order of the classes, and reduce_zero_label.'
    (report.warnings if probable else report.notes).append(text)


def _report_mixed(key, maps, names, report):
    """Some files mark the object with 1, and others, it seems, with the ignored label."""
    ones, ignored = maps.of({0, 1}), maps.of({0, maps.ignore_index})
    if not ones or not ignored or maps.of({0, 1, maps.ignore_index}):  # in the last, both are used side by side
        return
    report.warnings.append(
        f'{key}: of {maps}, {len(ones)} have the values 0 and 1, such as {ones[0]}, and {len(ignored)} have 0 and '
        f'{maps.ignore_index}, such as {ignored[0]}. {maps.ignore_index} is ignored (ignore_index): if it marks {names[1]!r}, '
        f'write new files with 1 instead of {maps.ignore_index}.'
    )


def _report_ignored(key, maps, dataset, report, trained):
    """All pixels that were read are ignored."""
    values = file_values(maps.paths)
    held = f' The files hold the values {number_list(values)}, and reduce_zero_label={dataset.reduce_zero_label}.' if values else ''
    label = f' ({maps.ignore_index})'
    if values == {0} and dataset.reduce_zero_label:
        label, held = '', ' The files hold only the value 0, which reduce_zero_label=True ignores.'
    result = 'the model would learn nothing' if trained else 'all scores would be NaN'
    remedies = ['check the folder of the label maps']
    if dataset.reduce_zero_label and (not values or 0 in values):
        remedies.append('set reduce_zero_label=False in every dataset')
    if values and values <= {0, maps.ignore_index} and maps.ignore_index in values:
        remedies.append(f'write the number of the class instead of {maps.ignore_index}')
    if len(remedies) == 1:
        remedies.append('check the values of its files')
    remedy = ', '.join(remedies[:-1]) + f', and {remedies[-1]}'
    text = f'{key}: all pixels of {maps} are ignored{label}, so {result}.{held} {remedy[0].upper()}{remedy[1:]}.'
    if len(maps.paths) == maps.total:
        raise InputError(text)
    report.warnings.append(text)


def _reason(names, missing, values, dataset, maps):
    """Why classes probably do not occur, and what to do, in one sentence; '' if the values of the files do not tell.

    A class that is rare is likelier than a mistake, unless there are two classes, or all label maps were read.
    """
    if not values:
        return ''
    ignore_index, last = maps.ignore_index, len(names) - 1
    ids = {value for value in values if value != ignore_index}
    everywhere = 'in every dataset, and in LoadAnnotations if it is set there'
    few = (last == 1 and ids <= {0, 1}) or (len(names) <= FEW_CLASSES and maps.are_all())
    clear = few or maps.are_many(len(names))
    if dataset.reduce_zero_label:
        if clear and last in missing and 0 in ids and max(ids) <= last:
            return f'reduce_zero_label=True ignores 0 and lowers the other values by one: set reduce_zero_label=False {everywhere}.'
        return ''
    if 0 in missing and ids and min(ids) == 1 and max(ids) > last:
        return f'The files number the classes from 1: set reduce_zero_label=True {everywhere}.'
    if few and ignore_index in values and (last in missing or last == 1):
        index = missing[-1]
        return (
            f'{ignore_index} is ignored (ignore_index): if it marks {names[index]!r}, convert it, that is, write new files with '
            f'{index} instead of {ignore_index}.'
        )
    if clear and missing == [0] and ids and min(ids) == 1:
        return f'If the files number the classes from 1, set reduce_zero_label=True {everywhere}.'
    return ''


def number_list(values):
    """Numbers for a message: '0, 1, 2 and 255', '0..149', or the first ten."""
    numbers = sorted(values)
    if len(numbers) > 4 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f'{numbers[0]}..{numbers[-1]}'
    if len(numbers) > 10:
        return ', '.join(map(str, numbers[:10])) + ', ...'
    return ' and '.join(part for part in (', '.join(map(str, numbers[:-1])), str(numbers[-1])) if part)

"""Files as inputs of inference: images and videos given by name, as folders or by globs, and the paths of their results."""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
VIDEO_SUFFIXES = ('.3gp', '.avi', '.flv', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.ogv', '.webm', '.wmv')
SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
# of the files, and of the folder, that may be written for one input
RESULT_SUFFIXES = ('.png', '_overlay.png', '_panel.png', '.json', '_overlay.mp4', '_overlay.avi', '.jsonl', '_frames')
BESIDE = '_pred'  # is appended to the names of results that are written next to their inputs
EARLIER_RESULT = re.compile(rf'(.+){BESIDE}(?:-\d+)?(?:{"|".join(map(re.escape, RESULT_SUFFIXES))})')
SUFFIXES_SHOWN = 5


@dataclass(frozen=True)
class Input:
    """An image or a video. `relative` is its path below the folder that was searched, or its name: results mirror it."""

    path: Path
    relative: Path

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass
class Found:
    """Inputs in order, each file once; how many entries of the folders were skipped, by reason; folders that cannot be read."""

    inputs: list[Input] = field(default_factory=list)
    skipped: Counter = field(default_factory=Counter)
    other_suffixes: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """What was skipped, in one line; empty if nothing was."""
        parts = [f'{count} {reason}' for reason, count in self.skipped.items()]
        if self.other_suffixes:
            most = [suffix or 'no suffix' for suffix, _ in self.other_suffixes.most_common(SUFFIXES_SHOWN)]
            more = ', ...' if len(self.other_suffixes) > SUFFIXES_SHOWN else ''
            parts.append(f'{self.other_suffixes.total()} of other types ({", ".join(most)}{more})')
        return f'skipped: {", ".join(parts)}' if parts else ''


def find_inputs(items, out=None) -> Found:
    """Find the images and videos that are given as files, as folders (searched with their sub-folders) and by globs.

    A file given by name may have any suffix. In folders, hidden entries, files of other types, results that an earlier run wrote
    next to its inputs, and the folder `out` are skipped and counted. Links are followed, and each file and folder is taken once.

    Raises FileNotFoundError naming the items without any image or video.
    """
    search = _Search(out)
    empty = [str(item) for item in items if not search.take(item)]
    missing = [item for item in empty if not os.path.lexists(item) and not has_magic(item)]
    if missing:
        raise FileNotFoundError(
            f'{", ".join(missing)} {"does" if len(missing) == 1 else "do"} not exist. Give files, folders or quoted globs.'
        )
    if empty:
        skipped = search.found.summary()
        raise FileNotFoundError(
            f'There is no image or video for {", ".join(empty)}{f" ({skipped})" if skipped else ""}. '
            f'Give files, quoted globs, or folders with files {" ".join(SUFFIXES)}.'
        )
    return search.found


class _Search:
    def __init__(self, out):
        self.found = Found()
        self.out = os.path.realpath(out) if out is not None else None
        self.files, self.folders = set(), set()  # real paths
        self.hits = 0

    def take(self, item):
        """Search one item; whether there was anything that can be an input."""
        before = self.hits + len(self.found.problems)
        paths = [item] if os.path.lexists(item) else sorted(glob(str(item), recursive=True))
        for path in map(Path, paths):
            if path.is_dir():
                self._tree(path)
            elif path.is_file():
                self._add(path, Path(path.name))
        return self.hits + len(self.found.problems) > before

    def _tree(self, root):
        """All folders of the tree, then those behind links: a link to a folder of the tree does not move it to another place."""
        folders, links = [(root, Path())], []
        while folders or links:
            folder, relative = folders.pop() if folders else links.pop(0)
            if self._is_new(folder, relative):
                below = self._folder(folder, relative)
                links += [entry for entry in below if entry[0].is_symlink()]
                folders += [entry for entry in below[::-1] if not entry[0].is_symlink()]

    def _is_new(self, folder, relative):
        real = os.path.realpath(folder)
        if relative.parts and real == self.out:
            self.found.skipped[f'output folder ({folder})'] += 1
        elif real in self.folders:
            self.hits += 1
            self.found.skipped['folders found twice'] += 1
        else:
            self.folders.add(real)
            return True
        return False

    def _folder(self, folder, relative):
        """Take the files of a folder, and return its sub-folders with their relative paths."""
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            self.found.problems.append(f'the folder {folder} cannot be read: {error.strerror}')
            return []
        stems = {Path(name).stem for name in names if Path(name).suffix.lower() in SUFFIXES}.union(names)
        below = []
        for name in names:
            path, earlier = folder / name, EARLIER_RESULT.fullmatch(name)
            if name.startswith('.'):
                self.found.skipped['hidden'] += 1
            elif earlier and earlier[1] in stems:
                self.found.skipped['results of an earlier run'] += 1
            elif os.path.isdir(path):
                below.append((path, relative / name))
            elif path.suffix.lower() in SUFFIXES and (os.path.isfile(path) or not os.path.exists(path)):
                self._add(path, relative / name)  # also a link to a missing file: it is reported when it is read
            else:
                self.found.other_suffixes[path.suffix.lower()] += 1
        return below

    def _add(self, path, relative):
        self.hits += 1
        real = os.path.realpath(path)
        if real in self.files:
            self.found.skipped['files found twice'] += 1
        else:
            self.files.add(real)
            self.found.inputs.append(Input(path, relative))


def result_paths(inputs, out):
    """For each input the path in folder `out` that its results begin with; `out` None stands for the input's own folder.

    It mirrors `Input.relative`, without the suffix. On a conflict the name is prefixed with its folder, then a number is appended.
    """
    targets, used = [], set()
    for item in inputs:
        folder = item.path.parent if out is None else Path(out) / item.relative.parent
        names = _beside_names(item, len(inputs)) if out is None else _names(item, len(inputs))
        name = next(name for name in names if used.isdisjoint((folder, name + suffix) for suffix in RESULT_SUFFIXES))
        used.update((folder, name + suffix) for suffix in RESULT_SUFFIXES)
        targets.append(folder / name)
    return targets


def _names(item, count):
    stem = item.path.stem
    yield stem
    yield f'{Path(os.path.realpath(item.path.parent)).name}-{stem}'
    yield from (f'{stem}-{number}' for number in range(2, count + 3))


def _beside_names(item, count):
    yield item.path.stem + BESIDE
    yield item.path.name + BESIDE
    yield from (f'{item.path.stem}{BESIDE}-{number}' for number in range(2, count + 3))


def refuse_to_overwrite(inputs, targets):
    """Raise a ValueError if a result at one of `targets` would overwrite one of the inputs."""
    real = _RealPath()
    outputs = {real(target.with_name(target.name + suffix)) for target in targets for suffix in RESULT_SUFFIXES}
    overwritten = sorted(str(item.path) for item in inputs if real(item.path) in outputs)
    if overwritten:
        raise ValueError(f'The results would overwrite {", ".join(overwritten)}. Choose another output folder.')


class _RealPath:
    """`os.path.realpath` that resolves each folder once."""

    def __init__(self):
        self.folders = {}

    def __call__(self, path):
        if os.path.islink(path):
            return os.path.realpath(path)
        if path.parent not in self.folders:
            self.folders[path.parent] = os.path.realpath(path.parent)
        return f'{self.folders[path.parent]}{os.sep}{path.name}'

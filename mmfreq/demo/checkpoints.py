"""The checkpoints that the page offers, and a bounded number of them loaded.

They are searched once, at the start: pairs of a config and a checkpoint in one folder, as in mmengine's work directories. The
search reads no files. A config is Python code and runs when its model is selected, so search only folders that you trust.
"""

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from mmengine.config import Config

from mmfreq.apis.inference import Predictor, load_predictor
from mmfreq.demo.responses import FilterImages, draw_filters
from mmfreq.engine.resume.start import checkpoints_in
from mmfreq.errors import UserError
from mmfreq.testing.toy_segmentation import toy_segmentation_config


@dataclass(frozen=True)
class Source:
    """The files of a model. Without a config it is the toy segmentor with random weights (`UNTRAINED`)."""

    name: str
    folder: str
    config: Path | None = None
    checkpoint: Path | None = None

    @property
    def stamp(self) -> tuple:
        """Changes when a file changes. Raises UserError if one is missing."""
        try:
            stats = [path.stat() for path in (self.config, self.checkpoint) if path]
        except OSError as error:
            raise UserError(f'{error.filename} existed when the page started and cannot be read now. Restart the page.') from error
        return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)


UNTRAINED = Source('HorNet-micro with random weights: NOT trained', 'no checkpoint')


def find_sources(folders: list[Path]) -> tuple[list[Source], list[Path]]:
    """Pairs in `folders` and below, newest first within a folder, and the checkpoints whose config is ambiguous.

    Of several configs in a folder, a checkpoint belongs to the one that its name begins with, as in published files. Hidden folders
    and links to folders are skipped.

    Raises:
        UserError: a folder does not exist.
    """
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f'There is no folder {", ".join(missing)}. Give folders with configs and checkpoints.')
    found, without_config, seen = [], [], set()
    for folder in chain.from_iterable(map(_folders_below, folders)):
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        checkpoints = [folder / name for name in checkpoints_in(folder) if name.endswith('.pth')]
        configs = sorted(folder.glob('*.py'))
        for path in sorted(checkpoints, key=_newest_first):
            config = _config_of(path, configs)
            if config:
                found.append(Source(path.name, f'{folder} ({config.stem})', config, path))
            else:
                without_config.append(path)
    return found, without_config


def one_source(config: Path, checkpoint: Path) -> Source:
    """The given pair. Raises UserError if a file does not exist."""
    for path in (config, checkpoint):
        if not path.is_file():
            raise UserError(f'There is no file {path}. Give a config and its checkpoint.')
    return Source(checkpoint.name, f'{checkpoint.parent} ({config.stem})', config, checkpoint)


class Loaded:
    """A model in memory; `seconds` is the time that loading took."""

    def __init__(self, source: Source, device: str, plain: bool = False):
        started = time.perf_counter()
        self.source, self.stamp = source, source.stamp
        if source.config is None:
            self.predictor = Predictor(Config(toy_segmentation_config('none')), None, device, plain)
        else:
            self.predictor = load_predictor(source.config, source.checkpoint, device, plain=plain)
        self.seconds = time.perf_counter() - started

    @cached_property
    def filters(self) -> FilterImages:
        """The learned filters, drawn at the first call."""
        return draw_filters(self.predictor.loaded)


class Models:
    """The sources by id ('0', '1', ...), of which the `max_loaded` last used ones stay in memory.

    Models are optimized by `mmfreq.optimize` unless `plain`. Only one thread at a time uses a model: predictions share the CPU or
    the GPU, and OpenMMLab's scopes are global.
    """

    def __init__(self, sources: list[Source], device: str = 'cpu', max_loaded: int = 2, plain: bool = False):
        self.sources = {str(number): source for number, source in enumerate(sources)}
        self.device, self.max_loaded, self.plain = device, max_loaded, plain
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def use(self, key: str) -> Iterator[tuple[Loaded, bool]]:
        """The model, and whether it was just loaded; a checkpoint that changed on disk is loaded again.

        Raises:
            KeyError: there is no such id.
            UserError, ValueError: the model cannot be loaded from the files, see `load_predictor`.
        """
        source = self.sources[key]
        with self._lock:
            if self._closed:
                raise UserError('The server is shutting down.')
            loaded = self._loaded.pop(key, None)
            fresh = loaded is None or loaded.stamp != source.stamp
            if fresh:
                loaded = None  # frees its memory before the next one is loaded
                while len(self._loaded) >= self.max_loaded:
                    self._loaded.popitem(last=False)
                loaded = Loaded(source, self.device, self.plain)
            self._loaded[key] = loaded
            yield loaded, fresh

    def close(self) -> None:
        """Wait for the running prediction and refuse new ones: a process that ends during a prediction may abort."""
        self._closed = True
        with self._lock:
            self._loaded.clear()

    @property
    def loaded(self) -> list[str]:
        """Ids of the models in memory, the last used one at the end."""
        return list(self._loaded)


def _folders_below(folder: Path) -> Iterator[Path]:
    for path, below, _ in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith('.'))
        yield Path(path)


def _newest_first(path: Path) -> tuple:
    """Sort key: modification time, then the iteration in the name, for files that were copied at once."""
    numbers = [-int(number) for number in re.findall(r'\d+', path.stem)]
    return -int(path.stat().st_mtime), numbers, path.name


def _config_of(checkpoint: Path, configs: list[Path]) -> Path | None:
    named = [config for config in configs if checkpoint.stem.startswith(config.stem)]
    if named:
        return max(named, key=lambda config: len(config.stem))
    return configs[0] if len(configs) == 1 else None

"""The checkpoints that the page offers, and a bounded number of them loaded.

They are looked for once, at the start: pairs of a config and a checkpoint in one folder, as mmengine's work directories hold them.
Nothing is read while looking. A config is Python code and runs when its model is picked: look only in folders that you trust.
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
from mmfreq.demo.answers import FilterPictures, draw_filters
from mmfreq.engine.resume.start import checkpoints_in
from mmfreq.errors import UserError
from mmfreq.testing.toy_segmentation import toy_segmentation_config


@dataclass(frozen=True)
class Source:
    """Where a model comes from. Without a config it is the toy segmentor with random weights, see `UNTRAINED`."""

    name: str
    folder: str
    config: Path | None = None
    checkpoint: Path | None = None

    @property
    def stamp(self) -> tuple:
        """Changes when a file does. Raises UserError where one is gone."""
        try:
            stats = [path.stat() for path in (self.config, self.checkpoint) if path]
        except OSError as error:
            raise UserError(f'{error.filename} was there when the page started and cannot be read now') from error
        return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)


UNTRAINED = Source('HorNet-micro with random weights: NOT trained', 'no checkpoint')


def find_sources(folders: list[Path]) -> tuple[list[Source], list[Path]]:
    """Pairs in `folders` and below, the newest first within a folder, and the checkpoints whose config cannot be told.

    Of several configs in a folder a checkpoint's is the one its own name begins with, as in published files. Hidden folders and
    links to folders are passed over.

    Raises:
        UserError: a folder does not exist.
    """
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f'no folder {", ".join(missing)}; expected folders with configs and checkpoints')
    found, alone, seen = [], [], set()
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
                alone.append(path)
    return found, alone


def one_source(config: Path, checkpoint: Path) -> Source:
    """The pair that was named. Raises UserError if a file does not exist."""
    for path in (config, checkpoint):
        if not path.is_file():
            raise UserError(f'no file {path}')
    return Source(checkpoint.name, f'{checkpoint.parent} ({config.stem})', config, checkpoint)


class Loaded:
    """A model in memory. `seconds` is what loading took."""

    def __init__(self, source: Source, device: str, plain: bool = False):
        started = time.perf_counter()
        self.source, self.stamp = source, source.stamp
        if source.config is None:
            self.predictor = Predictor(Config(toy_segmentation_config('none')), None, device, plain)
        else:
            self.predictor = load_predictor(source.config, source.checkpoint, device, plain=plain)
        self.seconds = time.perf_counter() - started

    @cached_property
    def filters(self) -> FilterPictures:
        """Drawn at the first call."""
        return draw_filters(self.predictor.loaded)


class Models:
    """The sources by their ids, '0' and on, and the `kept` ones used last in memory; `plain` ones without `mmfreq.optimize`.

    One thread at a time has a model: predictions share the processor or the GPU, and OpenMMLab's scopes are global.
    """

    def __init__(self, sources: list[Source], device: str = 'cpu', kept: int = 2, plain: bool = False):
        self.sources = {str(number): source for number, source in enumerate(sources)}
        self.device, self.kept, self.plain = device, kept, plain
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def use(self, key: str) -> Iterator[tuple[Loaded, bool]]:
        """The model and whether it was loaded just now; a checkpoint that changed on disk is loaded again.

        Raises:
            KeyError: no such id.
            UserError, ValueError: the files do not give a model, see `load_predictor`.
        """
        source = self.sources[key]
        with self._lock:
            if self._closed:
                raise UserError('the server is ending')
            held = self._loaded.pop(key, None)
            fresh = held is None or held.stamp != source.stamp
            if fresh:
                held = None  # its memory is free before the next one is loaded
                while len(self._loaded) >= self.kept:
                    self._loaded.popitem(last=False)
                held = Loaded(source, self.device, self.plain)
            self._loaded[key] = held
            yield held, fresh

    def close(self) -> None:
        """Waits for the one who has a model now; nobody gets one any more. A process that ends amid a prediction may abort."""
        self._closed = True
        with self._lock:
            self._loaded.clear()

    @property
    def loaded(self) -> list[str]:
        """Ids of the models in memory, the one used last at the end."""
        return list(self._loaded)


def _folders_below(folder: Path) -> Iterator[Path]:
    for path, below, _ in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith('.'))
        yield Path(path)


def _newest_first(path: Path) -> tuple:
    """By time of writing; of files of one copy the later iteration."""
    numbers = [-int(number) for number in re.findall(r'\d+', path.stem)]
    return -int(path.stat().st_mtime), numbers, path.name


def _config_of(checkpoint: Path, configs: list[Path]) -> Path | None:
    named = [config for config in configs if checkpoint.stem.startswith(config.stem)]
    if named:
        return max(named, key=lambda config: len(config.stem))
    return configs[0] if len(configs) == 1 else None

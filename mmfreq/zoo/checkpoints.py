"""Which checkpoint file belongs to which row of the zoo.

A file is matched by the first of these that applies: its name; the folder of a training run, named after a row; the list of
published files, by sha256 or by the name in the URL; the name of the config, which mmengine notes in its files; the names and
shapes of its tensors. Files are read by `compat.safe_load`, which runs no code from them.
"""

import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mmengine.logging import MMLogger
from torch import Tensor, nn

from mmfreq.analysis.flops import build_for_counting
from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.engine.resume.start import latest_first
from mmfreq.errors import UserError
from mmfreq.weights import store
from mmfreq.weights.convert import official_layout, published_layout
from mmfreq.weights.files import TASKS, UNKNOWN, ZOO, Weights, list_weights
from mmfreq.weights.fit import choose_entry, fit_checkpoint, mmfreq_names
from mmfreq.weights.rules import RULES
from mmfreq.zoo.evaluation import first_line, noted_config
from mmfreq.zoo.published import published_file
from mmfreq.zoo.rows import Row

FROM_TRAINING = re.compile(r'(best_.+|epoch_\d+|iter_\d+)\.pth')  # names that mmengine gives
DATE_AND_HASH = re.compile(r'(_\d{8}(_\d{6})?)?(-[0-9a-f]{8,64})?$')  # OpenMMLab puts them after a config's name
DETECTOR_PARTS = ('rpn_head.', 'roi_head.', 'bbox_head.')
MODELS = {'cls': 'classifier, or backbone alone,', 'seg': 'segmentor', 'det': 'detector'}


@dataclass(frozen=True)
class Match:
    """A file, its row, and how they were matched."""

    row: Row
    file: Path
    how: str


@dataclass(frozen=True)
class Unmatched:
    """A file that belongs to no row, or to several; `why` includes what to do."""

    file: Path
    why: str


def assign(folders: Iterable[Path], rows: Iterable[Row]) -> tuple[list[Match], list[Unmatched]]:
    """Checkpoints of rows, in the rows' order, and the unmatched files; raises as `find_checkpoints`."""
    rows = list(rows)
    matcher = Matcher(rows)
    found = [matcher.match(file) for file in find_checkpoints(folders)]
    order = {row.name: index for index, row in enumerate(rows)}
    matches = sorted((each for each in found if isinstance(each, Match)), key=lambda match: order[match.row.name])
    return matches, [each for each in found if isinstance(each, Unmatched)]


def download(rows: Iterable[Row]) -> tuple[list[Match], list[str]]:
    """The published files of rows, downloaded unless they are here; and a message for each that cannot be had."""
    matches, faults = [], []
    for row in rows:
        if file := published_file(row):
            try:
                matches.append(Match(row, Path(store.local_file(file.name)), f'as {file.name}'))
            except CheckpointError as error:
                faults.append(f'{row.name}: {error}')
    return matches, faults


def find_checkpoints(folders: Iterable[Path]) -> list[Path]:
    """Files anywhere below the folders, or given themselves; of a training run's folder only the best, else the last.

    Raises:
        UserError: a folder does not exist.
    """
    files: list[Path] = []
    for folder in folders:
        if not folder.exists():
            raise UserError(f'{folder.absolute()} does not exist. --checkpoints takes folders with checkpoints, or files.')
        files += [folder] if folder.is_file() else [path for path in _walk(folder) if path.suffix in store.SUFFIXES]
    runs: dict[Path, list[Path]] = {}
    for path in files:
        if FROM_TRAINING.fullmatch(path.name):
            runs.setdefault(path.parent, []).append(path)
    chosen = {choose_of_run(folder, saved) for folder, saved in runs.items()}
    return [path for path in dict.fromkeys(files) if path in chosen or path not in runs.get(path.parent, ())]


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, sorted; links to folders are followed once, hidden files and folders are skipped."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith('.'))
        names = [] if real in seen else sorted(name for name in names if not name.startswith('.'))
        seen.add(real)
        yield from (path for name in names if (path := Path(parent, name)).is_file())


def choose_of_run(folder: Path, saved: Sequence[Path]) -> Path:
    """Of the checkpoints of a run: the newest `best_*`, else the latest."""
    best = [path for path in saved if path.name.startswith('best_')]
    if best:
        return max(best, key=lambda path: path.stat().st_mtime)
    return next(path for path in latest_first(folder) if path in saved)


class Matcher:
    """Finds the row of a file. The rows' models are built once, and only for files that nothing else identifies."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = {row.name: row for row in rows}
        self.models = RowModels(self.rows.values())

    def match(self, file: Path) -> Match | Unmatched:
        """The row of a file, or why there is none; raises nothing, whatever the file contains."""
        try:
            return self._by_name(file) or self._by_publication(file) or self._by_content(file)
        except OSError as error:
            return Unmatched(file, f'it cannot be read ({error.strerror or error})')
        except CheckpointError as error:
            return Unmatched(file, first_line(error, file))
        except Exception as error:  # unforeseen shapes or names
            return Unmatched(file, f'{type(error).__name__}: {first_line(error, file)}')

    def _by_name(self, file: Path) -> Match | Unmatched | None:
        name = stem(file)
        for each in (name, DATE_AND_HASH.sub('', name)):
            if each in self.rows:
                return Match(self.rows[each], file, 'by its name')
        if FROM_TRAINING.fullmatch(file.name) and file.parent.name in self.rows:
            return Match(self.rows[file.parent.name], file, "by its folder's name")
        return None

    def _by_publication(self, file: Path) -> Match | Unmatched | None:
        digest = sha256_of(file)
        weights = next((each for each in ZOO if each.sha256 == digest or digest.startswith(each.sha256_prefix)), None)
        how = 'by its sha256'
        if weights is None:
            weights = next((each for each in ZOO if stem(file) in published_stems(each)), None)
            how = "by the published file's name"
            stated = {weights.sha256_prefix, weights.sha256[:8]} - {UNKNOWN} if weights else set()
            if stated:
                return Unmatched(
                    file,
                    f'it has the name of a published file whose sha256 begins with {stated.pop()}, but its own begins with '
                    f'{digest[:8]}: download it again, or rename it if it is another file',
                )
        if weights is None:
            return None
        row = self._row_of(weights)
        task = f'{weights.task} ({TASKS[weights.task]}) of {weights.arch}'
        return Match(row, file, how) if row else Unmatched(file, f'it is published as {task}, which no row evaluates')

    def _row_of(self, weights: Weights) -> Row | None:
        """The row that links this file, or another one of the same arch and task, as its weights."""
        urls = {url for each in list_weights(weights.arch, weights.task) for url in (each.url, *each.mirrors)} - {UNKNOWN}
        return next((row for row in self.rows.values() if row.weights in urls), None)

    def _by_content(self, file: Path) -> Match | Unmatched:
        content = read_checkpoint(file)
        config = noted_config(content)
        if config in self.rows:
            return Match(self.rows[config], file, 'by the name of the config noted in it')
        fits = self.models.fitting(content)
        published = [row for row in fits if row.weights]
        if len(fits) == 1:
            return Match(fits[0], file, 'by its tensors')
        if len(published) == 1:
            others = ', '.join(row.name for row in fits if row is not published[0])
            return Match(published[0], file, f'by its tensors, as the only published one; rows with the same shapes: {others}')
        names = ', '.join(f'{row.name}.pth' for row in fits)
        return Unmatched(file, f'its tensors fit {len(fits)} rows: rename it to one of {names}')


class RowModels:
    """The models of rows, on the meta device, built on first use."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = list(rows)
        self._built: dict[str, nn.Module | None] = {}

    def fitting(self, content: Any) -> list[Row]:
        """Rows whose whole model the weights in a file fill; only those without resizing, if there are any.

        Raises:
            CheckpointError: no weights, unknown family, or no such row.
        """
        state = choose_entry(content).state
        family, task = family_and_task(state)
        resized = {}
        for row in self.rows:
            if (row.family, row.task) == (family, task) and (count := self._count_resized(row, state)) is not None:
                resized[row.name] = count
        fits = [row for row in self.rows if row.name in resized]
        if not fits:
            raise CheckpointError(
                f'No row has this {MODELS[task]} of {family} with these shapes. If the file belongs to a row all the same, '
                'rename it to NAME.pth with the name of the row; --list prints the names.'
            )
        return [row for row in fits if not resized[row.name]] or fits

    def _count_resized(self, row: Row, state: Mapping[str, Tensor]) -> int | None:
        """How many tensors are resized to fit a row's model; None where some of its tensors are not filled."""
        model = self._model(row)
        if model is None:
            return None
        try:
            fitted = fit_checkpoint(state, model)
        except Exception:  # also filters that cannot be resized
            return None
        for name, wanted in model.state_dict().items():
            given = fitted.state.get(name)
            if (given is None or given.shape != wanted.shape) and not name.endswith('num_batches_tracked'):
                return None
        return len(fitted.resized)

    def _model(self, row: Row) -> nn.Module | None:
        """The model of a row; None if its config cannot be built, which is reported when the row is evaluated or audited."""
        if row.name not in self._built:
            try:
                with only_errors_logged():
                    self._built[row.name] = build_for_counting(str(row.config))[0].to('meta')
            except Exception:
                self._built[row.name] = None
        return self._built[row.name]


@contextmanager
def only_errors_logged():
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def family_and_task(state: Mapping[str, Tensor]) -> tuple[str, str]:
    """(family, task) of a state dict; a backbone alone counts as a classifier.

    Raises:
        CheckpointError: unknown family.
    """
    try:
        family, _ = published_layout(state)
    except CheckpointError:
        family, _ = official_layout(state)
    names = mmfreq_names(state, RULES[family])[1].values()
    if any(name.startswith('decode_head.') for name in names):
        return family, 'seg'
    return family, 'det' if any(name.startswith(DETECTOR_PARTS) for name in names) else 'cls'


def sha256_of(path: Path) -> str:
    """The sha256 of a file, computed again only if the file changes."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    return store.sha256_of(path)


def stem(file: Path) -> str:
    """The name of a file without its suffixes, also without both of `.pth.tar`."""
    name = file.name
    while name.endswith(store.SUFFIXES):
        name = name[: name.rindex('.')]
    return name


def published_stems(weights: Weights) -> list[str]:
    """Names, without suffix, in the URLs of a published file."""
    paths = [Path(urlsplit(url).path) for url in (weights.url, *weights.mirrors)]
    return [path.stem for path in paths if path.suffix in store.SUFFIXES]

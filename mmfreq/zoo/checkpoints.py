"""Which rows of the zoo a checkpoint fits by what it holds."""

import hashlib
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
from mmfreq.weights.convert import official_layout, published_layout
from mmfreq.weights.files import TASKS, UNKNOWN, ZOO, Weights, find
from mmfreq.weights.fit import choose_entry, fit_checkpoint, mmfreq_names
from mmfreq.weights.rules import RULES
from mmfreq.zoo.rows import Row, first_sentence

DETECTOR_PARTS = ('rpn_head.', 'roi_head.', 'bbox_head.')
TIME = re.compile(r'_\d{8}_\d{6}$')  # mmengine puts it after the name of the config
WORDS = {'cls': 'classifier, or backbone alone,', 'seg': 'segmentor', 'det': 'detector'}


def noted_config(content: Any) -> str:
    """Stem of the config that mmengine says it trained, '' if the file does not say."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    name = meta.get('experiment_name') if isinstance(meta, Mapping) else None
    return TIME.sub('', name) if isinstance(name, str) else ''


def kind_of(state: Mapping[str, Tensor]) -> tuple[str, str]:
    """(family, task) of a state dict; a backbone alone counts as a classifier.

    Raises:
        CheckpointError: not of a family known here.
    """
    try:
        family, _ = published_layout(state)
    except CheckpointError:
        family, _ = official_layout(state)
    ours = mmfreq_names(state, RULES[family])[1].values()
    if any(name.startswith('decode_head.') for name in ours):
        return family, 'seg'
    return family, 'det' if any(name.startswith(DETECTOR_PARTS) for name in ours) else 'cls'


class RowModels:
    """The models of rows, on the meta device, each built when it is first asked for."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = list(rows)
        self._built: dict[str, nn.Module | None] = {}

    def fitting(self, content: Any) -> list[Row]:
        """Rows whose whole model the weights in the content of a file fill; those without resizing alone, if there are any.

        Raises:
            CheckpointError: no weights, no family known here, or no such row.
        """
        state = choose_entry(content).state
        family, task = kind_of(state)
        resized = {}
        for row in self.rows:
            if (row.family, row.task) == (family, task) and (count := self._resized(row, state)) is not None:
                resized[row.name] = count
        fits = [row for row in self.rows if row.name in resized]
        if not fits:
            raise CheckpointError(
                f'no row has this {WORDS[task]} of {family} with these shapes. If it belongs to one all the same, rename it to '
                'NAME.pth with the name of the row; --list prints them'
            )
        return [row for row in fits if not resized[row.name]] or fits

    def _resized(self, row: Row, state: Mapping[str, Tensor]) -> int | None:
        """How many tensors are brought to another grid to fit a row's model; None where some stay unfilled."""
        model = self._model(row)
        if model is None:
            return None
        try:
            fitted = fit_checkpoint(state, model)
        except Exception:  # also of filters that cannot be resized
            return None
        for name, wanted in model.state_dict().items():
            given = fitted.state.get(name)
            if (given is None or given.shape != wanted.shape) and not name.endswith('num_batches_tracked'):
                return None
        return len(fitted.resized)

    def _model(self, row: Row) -> nn.Module | None:
        """The model of a row; None if its config cannot be built, which is told when the row is evaluated or audited."""
        if row.name not in self._built:
            try:
                with quiet():
                    self._built[row.name] = build_for_counting(str(row.config))[0].to('meta')
            except Exception:
                self._built[row.name] = None
        return self._built[row.name]


@contextmanager
def quiet():
    """Nothing but errors from building many models."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


# Which checkpoint file belongs to which row of the zoo.
#
# The first of these that tells is taken: the file's name; the folder of a training run, named as a row; the list of published files
# (`checkpoint/zoo.py`), by sha256 or by the name in the address; the name of the config, which mmengine notes in its files; the
# names and shapes of the tensors. Files are read by `compat.safe_load`, which runs no code out of them.


SUFFIXES = ('.pth', '.pt', '.bin', '.tar')
UNREAD = ('.safetensors',)
OF_A_RUN = re.compile(r'(best_.+|epoch_\d+|iter_\d+)\.pth')  # what mmengine saves
ADDED = re.compile(r'(_\d{8}(_\d{6})?)?(-[0-9a-f]{8,64})?$')  # date and hash, which OpenMMLab puts after a config's name


@dataclass(frozen=True)
class Match:
    """A file, its row, and how that was told."""

    row: Row
    file: Path
    how: str


@dataclass(frozen=True)
class Stray:
    """A file that belongs to no row, or to several, why, and what to do."""

    file: Path
    why: str


def assign(places: Iterable[Path], rows: Iterable[Row]) -> tuple[list[Match], list[Stray]]:
    """Checkpoints of rows, in the rows' order, and the files without one; errors as in `find_checkpoints`."""
    rows = list(rows)
    matcher = Matcher(rows)
    found = [matcher.match(file) for file in find_checkpoints(places)]
    order = {row.name: place for place, row in enumerate(rows)}
    matches = sorted((each for each in found if isinstance(each, Match)), key=lambda match: order[match.row.name])
    return matches, [each for each in found if isinstance(each, Stray)]


def find_checkpoints(places: Iterable[Path]) -> list[Path]:
    """Files anywhere below folders, or named themselves; of a training run's folder the best, else the last.

    Raises:
        UserError: a place is not there.
    """
    files = []
    for place in places:
        if not place.exists():
            raise UserError(f'there is no {place.absolute()}: --checkpoints takes folders that hold checkpoints, or files')
        files += [place] if place.is_file() else [path for path in _walk(place) if path.suffix in (*SUFFIXES, *UNREAD)]
    runs: dict[Path, list[Path]] = {}
    for path in files:
        if OF_A_RUN.fullmatch(path.name):
            runs.setdefault(path.parent, []).append(path)
    chosen = {chosen_of_run(folder, saved) for folder, saved in runs.items()}
    return [path for path in dict.fromkeys(files) if path in chosen or path not in runs.get(path.parent, ())]


def chosen_of_run(folder: Path, saved: Sequence[Path]) -> Path:
    """Of what a run saved: the newest `best_*`, else the latest."""
    best = [path for path in saved if path.name.startswith('best_')]
    if best:
        return max(best, key=lambda path: path.stat().st_mtime)
    return next(path for path in latest_first(folder) if path in saved)


def sha256_of(path: Path) -> str:
    """Of a file's content; read once, unless it changes."""
    found = path.stat()
    return _sha256(path, found.st_size, found.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


class Matcher:
    """Tells the row of a file; rows' models are built once, and only for files that nothing else tells."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = {row.name: row for row in rows}
        self.models = RowModels(self.rows.values())

    def match(self, file: Path) -> Match | Stray:
        """The row of a file, or why there is none; whatever the file holds, this raises nothing."""
        try:
            return self._by_name(file) or self._published(file) or self._by_content(file)
        except OSError as error:
            return Stray(file, f'it cannot be read ({error.strerror or error})')
        except CheckpointError as error:
            return Stray(file, first_sentence(error, file))
        except Exception as error:  # tensors of shapes, or names, that no one thought of
            return Stray(file, f'{type(error).__name__}: {first_sentence(error, file)}')

    def _by_name(self, file: Path) -> Match | Stray | None:
        if file.suffix in UNREAD:
            return Stray(file, f'{file.suffix} is not read: save it with torch.save as .pth')
        name = stem(file)
        for each in (name, ADDED.sub('', name)):
            if each in self.rows:
                return Match(self.rows[each], file, 'by its name')
        if OF_A_RUN.fullmatch(file.name) and file.parent.name in self.rows:
            return Match(self.rows[file.parent.name], file, "by its folder's name")
        return None

    def _published(self, file: Path) -> Match | Stray | None:
        digest = sha256_of(file)
        weights = next((each for each in ZOO if _is(each, digest)), None)
        how = 'by its sha256'
        if weights is None:
            weights = next((each for each in ZOO if stem(file) in published_stems(each)), None)
            how = "by the published file's name"
            stated = {weights.sha256_prefix, weights.sha256[:8]} - {UNKNOWN} if weights else set()
            if stated:
                return Stray(
                    file,
                    f'it is named as a published file whose sha256 begins with {stated.pop()}; its own begins with '
                    f'{digest[:8]}: download it again, or rename it if it is another',
                )
        if weights is None:
            return None
        row = self._row_of(weights)
        what = f'{weights.task} ({TASKS[weights.task]}) of {weights.arch}'
        return Match(row, file, how) if row else Stray(file, f'it is published as {what}, which no row tests')

    def _row_of(self, weights: Weights) -> Row | None:
        """The row that names this file, or another of the same arch and task, as its weights."""
        addresses = {url for each in find(weights.arch, weights.task) for url in (each.url, *each.mirrors)} - {UNKNOWN}
        return next((row for row in self.rows.values() if row.weights in addresses), None)

    def _by_content(self, file: Path) -> Match | Stray:
        content = read_checkpoint(file)
        noted = noted_config(content)
        if noted in self.rows:
            return Match(self.rows[noted], file, 'by the name of the config that it notes')
        fits = self.models.fitting(content)
        published = [row for row in fits if row.weights]
        if len(fits) == 1:
            return Match(fits[0], file, 'by its tensors')
        if len(published) == 1:
            others = ', '.join(row.name for row in fits if row is not published[0])
            return Match(published[0], file, f'by its tensors, as the only published one; of the same shapes: {others}')
        names = ', '.join(f'{row.name}.pth' for row in fits)
        return Stray(file, f'its tensors fit {len(fits)} rows: rename it to one of {names}')


def stem(file: Path) -> str:
    """The name of a file without its suffixes, also without both of `.pth.tar`."""
    name = file.name
    while name.endswith(SUFFIXES):
        name = name[: name.rindex('.')]
    return name


def published_stems(weights: Weights) -> list[str]:
    """Names, without suffix, under which the addresses of a published file hand it out."""
    paths = [Path(urlsplit(url).path) for url in (weights.url, *weights.mirrors)]
    return [path.stem for path in paths if path.suffix in SUFFIXES]


def _is(weights: Weights, digest: str) -> bool:
    return weights.sha256 == digest or digest.startswith(weights.sha256_prefix)


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, sorted; links to folders are followed once, what begins with a dot is left out."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith('.'))
        names = [] if real in seen else sorted(name for name in names if not name.startswith('.'))
        seen.add(real)
        yield from (path for name in names if (path := Path(here, name)).is_file())

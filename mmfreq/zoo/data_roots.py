"""Where the test data of a row are: the folder in its config, or the one that `--data` gives for its dataset."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmfreq.engine.evaluation import metrics_of
from mmfreq.errors import UserError
from mmfreq.preflight import leaf_datasets, missing_paths
from mmfreq.zoo.rows import Row

KEY = 'test_dataloader.dataset'
# dataset, for some with the task -> its name in `--data`; the names of others are those in the metafile
NAMES = {
    'ADE20K': 'ade20k',
    'COCO': 'coco',
    'ImageNet-1k': 'imagenet',
    'VOC 2012 + SBD': 'voc',
    'CamVid': 'camvid',
    ('generated shapes', 'seg'): 'toy',
    ('generated shapes', 'det'): 'toy_coco',
}


@dataclass(frozen=True)
class Located:
    """Test data of a row.

    Attributes:
        root: absolute, links followed.
        options: changes to the config that select this root.
        missing: paths that do not exist.
    """

    root: str
    options: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def data_name(row: Row) -> str:
    """The name in `--data` of a row's dataset."""
    name = NAMES.get(row.dataset) or NAMES.get((row.dataset, row.task)) or row.dataset
    return name.lower().replace(' ', '_')


def parse_folders(given: Iterable[str], rows: Iterable[Row]) -> dict[str, Path]:
    """Dataset to folder, from arguments such as 'coco=/data/coco'.

    Raises:
        UserError: no `=`, or a dataset that no row has.
    """
    known = sorted({data_name(row) for row in rows})
    folders = {}
    for argument in given:
        name, equals, folder = argument.partition('=')
        if not (equals and folder) or name.lower() not in known:
            raise UserError(f'Expected --data NAME=FOLDER with one of the names {", ".join(known)}, got {argument!r}.')
        folders[name.lower()] = Path(folder).expanduser()
    return folders


def locate(cfg: Config, folder: Path | None = None) -> Located:
    """Test data of a config, in `folder` if one is given.

    The folder replaces the config's `data_root`, or is its parent: for ADE20K `ADEChallengeData2016`, or the folder in which its
    archive was unpacked.
    """
    own = next((leaf.get('data_root') or '' for _, leaf in _leaves(cfg)), '')
    if folder is None:
        return _located(cfg, own, {})
    tried = [
        _located(cfg, str(each), _options(cfg, own, str(each))) for each in (folder, folder / os.path.basename(own.rstrip('/')))
    ]
    return next((data for data in tried if not data.missing), tried[0])


def _leaves(cfg: Config):
    return leaf_datasets(cfg.test_dataloader.dataset, KEY)


def _options(cfg: Config, own: str, root: str) -> dict[str, str]:
    """`data_root`, and the annotation files of evaluators below it."""
    options = {f'{key}.data_root': root for key, _ in _leaves(cfg)}
    listed = isinstance(cfg.test_evaluator, (list, tuple))
    for index, metric in enumerate(metrics_of(cfg)):
        file = metric.get('ann_file')
        if file and own and file.startswith(own):
            key = f'test_evaluator.{index}' if listed else 'test_evaluator'
            options[f'{key}.ann_file'] = os.path.join(root, file[len(own) :].lstrip('/'))
    return options


def _located(cfg: Config, root: str, options: Mapping[str, str]) -> Located:
    moved = [(key, {**leaf, 'data_root': options.get(f'{key}.data_root', leaf.get('data_root'))}) for key, leaf in _leaves(cfg)]
    missing = [each.path for key, leaf in moved for each in missing_paths(key, leaf)]
    return Located(str(Path(root).expanduser().resolve()), options, tuple(missing))

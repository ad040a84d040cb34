"""Where the test data of a row are: where its config says, or in a folder given for its data set."""

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
# data set, for some with the task -> name on the command line; others are called as in the metafile
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
        options: changes to the config that lead there.
        missing: where what is not there was looked for; empty if all is.
    """

    root: str
    options: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def data_name(row: Row) -> str:
    """What `--data` calls the data set of a row."""
    name = NAMES.get(row.dataset) or NAMES.get((row.dataset, row.task)) or row.dataset
    return name.lower().replace(' ', '_')


def parse_folders(given: Iterable[str], rows: Iterable[Row]) -> dict[str, Path]:
    """Data set to folder, from words such as 'coco=/data/coco'.

    Raises:
        UserError: no `=`, or a data set that no row has.
    """
    known = sorted({data_name(row) for row in rows})
    folders = {}
    for word in given:
        name, equals, folder = word.partition('=')
        if not (equals and folder) or name.lower() not in known:
            raise UserError(f'--data takes NAME=FOLDER, with one of the names {", ".join(known)}; got {word!r}')
        folders[name.lower()] = Path(folder).expanduser()
    return folders


def locate(cfg: Config, folder: Path | None = None) -> Located:
    """Test data of a config, in `folder` if one is given.

    The folder is what the config calls `data_root`, or one above it that holds a folder of the same name: for ADE20K
    `ADEChallengeData2016`, or the one that its archive was unpacked in.
    """
    own = next((leaf.get('data_root') or '' for _, leaf in _leaves(cfg)), '')
    if folder is None:
        return _looked_at(cfg, own, {})
    tried = [
        _looked_at(cfg, str(each), _options(cfg, own, str(each))) for each in (folder, folder / os.path.basename(own.rstrip('/')))
    ]
    return next((data for data in tried if not data.missing), tried[0])


def _leaves(cfg: Config):
    return leaf_datasets(cfg.test_dataloader.dataset, KEY)


def _options(cfg: Config, own: str, root: str) -> dict[str, str]:
    """`data_root`, and the annotations of evaluators that lie in it."""
    options = {f'{key}.data_root': root for key, _ in _leaves(cfg)}
    listed = isinstance(cfg.test_evaluator, (list, tuple))
    for index, metric in enumerate(metrics_of(cfg)):
        file = metric.get('ann_file')
        if file and own and file.startswith(own):
            place = f'test_evaluator.{index}' if listed else 'test_evaluator'
            options[f'{place}.ann_file'] = os.path.join(root, file[len(own) :].lstrip('/'))
    return options


def _looked_at(cfg: Config, root: str, options: Mapping[str, str]) -> Located:
    moved = [(key, {**leaf, 'data_root': options.get(f'{key}.data_root', leaf.get('data_root'))}) for key, leaf in _leaves(cfg)]
    missing = [each.path for key, leaf in moved for each in missing_paths(key, leaf)]
    return Located(str(Path(root).expanduser().resolve()), options, tuple(missing))

"""Configs, paths and types by the names that configs use for them."""

import os
import re
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.utils import get_installed_path

import mmfreq.registry  # noqa: F401  (lets mmengine find mmfreq::...)
from mmfreq.errors import UserError

LIBRARIES = ('mmseg', 'mmdet', 'mmpretrain')


def is_remote(path):
    """Whether a path is an address such as `https://...`, `s3://...` or `torchvision://...`."""
    return re.match(r'^[A-Za-z][\w+.-]*://', str(path)) is not None


def absolute(path):
    """The absolute form of a path, without following links."""
    return Path(path).expanduser().absolute()


def check_new_file(path):
    """Raise `UserError` if a file to be written exists, or its folder does not."""
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise UserError(f'The folder {path.absolute().parent} does not exist. Create it, or choose another file name.')
    if path.exists():
        raise UserError(f'{path} already exists. Remove it, or choose another file name.')


def type_name(value):
    """The bare name in a `type=` field: 'SyncBN' for both `mmcv.SyncBN` and the class `SyncBN`."""
    return value.rsplit('.', 1)[-1] if isinstance(value, str) else getattr(value, '__name__', str(value))


def read_config(base):
    """The Config at a path or of `package::path`, such as `mmdet::retinanet/retinanet_r50_fpn_1x_coco.py`.

    Raises:
        UserError: there is no such config.
    """
    base = str(base)
    package, separator, name = base.partition('::')
    if not separator:
        if not absolute(base).is_file():
            raise UserError(
                f'The config {base!r} does not exist: looked at {absolute(base)}. Give a path, or mmseg::..., mmdet::...'
            )
        return Config.fromfile(absolute(base))
    if package in LIBRARIES:
        _check_library_config(package, name)
    elif package != 'mmfreq':
        raise UserError(f'Expected a path, or a config of {"::, ".join(LIBRARIES)}:: or mmfreq::; got {base!r}.')
    return Config.fromstring(f'_base_ = {base!r}\n', '.py')


def base_reference(base, folder=None):
    """The value of `_base_` for a config: `package::path` unchanged; a path relative to `folder`, or absolute without one."""
    if '::' in str(base):
        return str(base)
    path = absolute(base).resolve()
    return path.as_posix() if folder is None else Path(os.path.relpath(path, Path(folder).resolve())).as_posix()


def _check_library_config(package, name):
    """Raise for a config that the library does not have, with similar names, or that mmengine cannot read."""
    if find_spec(package) is None:
        raise UserError(f"'{package}::{name}' is a config of {package}, which is not installed. Run python -m mmfreq.doctor.")
    root = Path(get_installed_path(package)) / '.mim' / 'configs'
    if not (root / name).is_file():
        names = [path.relative_to(root).as_posix() for path in sorted(root.rglob('*.py'))]
        same_folder = [each for each in names if Path(each).parent == Path(name).parent]
        same_file = [each for each in names if Path(each).name == Path(name).name]
        nearest = get_close_matches(name, same_folder or same_file or names, n=3, cutoff=0)
        raise UserError(
            f"The config '{package}::{name}' does not exist; nearest: {', '.join(f'{package}::{each}' for each in nearest)}."
        )
    if not re.match(r'\w+/', name):
        raise UserError(f"mmengine cannot read '{package}::{name}' because of the name of its folder. Give its path: {root / name}")

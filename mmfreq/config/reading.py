"""What a config calls a path: on this file system, or somewhere that only mmengine's file backends reach."""

import os
import re
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.utils import get_installed_path

import mmfreq.registry  # noqa: F401  (lets mmengine find mmfreq::...)
from mmfreq.errors import UserError


def is_remote(path):
    """True for `https://...`, `s3://...`, `torchvision://...` and the like, which are never checked here."""
    return re.match(r'^[A-Za-z][\w+.-]*://', str(path)) is not None


def absolute(path):
    """The absolute form of a path, as an error message should show it; links are not followed."""
    return Path(path).expanduser().absolute()


# Fit a config to the machine it runs on: normalisation, precision, processes without GPUs, data workers.
#
# Each function changes a config in place and says so in the log once. None of them touches CUDA beyond asking whether it is
# there.


def type_name(value):
    """The bare name in a `type=` field: `mmcv.SyncBN` and the class `SyncBN` are both 'SyncBN'."""
    return value.rsplit('.', 1)[-1] if isinstance(value, str) else getattr(value, '__name__', str(value))


# The configs that others are written on top of: by path, or as `package::name` of an installed library.


SCOPES = ('mmseg', 'mmdet')


def read_base(base):
    """(Config, scope) of a segmentation or detection config, scope being 'mmseg' or 'mmdet'.

    Raises:
        UserError: there is no such config, it has no `model.backbone`, or it is of another library.
    """
    _check_found(str(base))
    cfg = Config.fromstring(f'_base_ = {reference(base)!r}\n', '.py')
    scope = cfg.get('default_scope') or str(base).partition('::')[0]
    if scope not in SCOPES:
        raise UserError(f'{base} has default_scope {scope!r}; expected a config of {" or ".join(SCOPES)}')
    if not cfg.get('model') or not cfg.model.get('backbone'):
        inside = [key for key, value in (cfg.get('model') or {}).items() if isinstance(value, dict) and 'backbone' in value]
        where = f'; model.{inside[0]} has one: mix the config that this one wraps' if inside else ''
        raise UserError(f'{base} has no model.backbone{where}; expected a config with a backbone and heads')
    return cfg, scope


def reference(base, folder=None):
    """What `_base_` says of a config: `package::name` as it is; a path relative to `folder`, or absolute without one."""
    if '::' in str(base):
        return str(base)
    path = absolute(base).resolve()
    return path.as_posix() if folder is None else Path(os.path.relpath(path, Path(folder).resolve())).as_posix()


def _check_found(base):
    package, mark, name = base.partition('::')
    if not mark:
        if not absolute(base).is_file():
            raise UserError(f'the config {base!r} is not there: looked at {absolute(base)}. Give a path, mmseg::... or mmdet::...')
    elif package in SCOPES:
        if find_spec(package) is None:
            raise UserError(f'{base!r} is a config of {package}, which is not installed (python -m mmfreq.doctor tells more)')
        _check_listed(package, name)
    elif package != 'mmfreq':
        raise UserError(f'{base!r} is a config of {package!r}; expected mmseg::..., mmdet::..., mmfreq::... or a path')


def _check_listed(package, name):
    """Refuse what mmengine cannot read, and what the library does not have, with the nearest of the same folder, name, or all."""
    root = Path(get_installed_path(package)) / '.mim' / 'configs'
    if not (root / name).is_file():
        names = [path.relative_to(root).as_posix() for path in sorted(root.rglob('*.py'))]
        folder = [each for each in names if Path(each).parent == Path(name).parent]
        same = [each for each in names if Path(each).name == Path(name).name]
        near = get_close_matches(name, folder or same or names, n=3, cutoff=0)
        raise UserError(f'{package} has no config {name!r}; nearest: {", ".join(f"{package}::{each}" for each in near)}')
    if not re.match(r'\w+/', name):
        raise UserError(f"mmengine reads no '{package}::{name}', for the letters of its folder; give its path: {root / name}")

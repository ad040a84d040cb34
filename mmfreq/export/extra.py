"""The packages of the extra [export], which the rest of mmfreq does without."""

from importlib import import_module
from types import ModuleType

from mmfreq.engine.errors import UserError


class MissingExtraError(UserError, ImportError):
    """A package of the extra is not installed."""


def extra(name: str) -> ModuleType:
    """The module of this name.

    Raises:
        MissingExtraError: it cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"exporting needs {name}, which does not import ({error}): pip install 'mmfreq[export]'") from error

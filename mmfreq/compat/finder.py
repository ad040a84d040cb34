"""An import finder that supplies `mmcv._ext` where the compiled one is absent.

mmdet and mmseg import `mmcv.ops`, which imports the compiled module `mmcv._ext`; `mmcv-lite` does not have it. The finder is last
on `sys.meta_path`, so that a compiled module takes precedence. It handles that one name and returns a real module spec (mmengine
calls `pkgutil.find_loader('mmcv._ext')`) whose source is `mmcv_ops.py`; nothing in that file runs before it is imported.

`import mmfreq` must come before the first import of `mmcv.ops`, `mmdet` or `mmseg` models. In worker processes that are spawned,
not forked, the `import mmfreq` of the main script does that; a script without it has no replacement there. mmpretrain can be
imported without `mmcv.ops`, and then imports mmfreq itself for its configs (`complete_transformer`).
"""

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path

NAME = 'mmcv._ext'
ATTENTION = 'MultiScaleDeformableAttention'
SOURCE = Path(__file__).with_name('mmcv_ops.py')


class MmcvOpsFinder:
    """Meta-path finder for `mmcv._ext` only."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        """Spec of the fallback; None for other names, and where torch or torchvision is not installed."""
        if fullname != NAME or find_spec('torch') is None or find_spec('torchvision') is None:
            return None
        return spec_from_file_location(NAME, SOURCE)


def install_finder():
    """Append the finder to `sys.meta_path`, once."""
    if MmcvOpsFinder not in sys.meta_path:
        sys.meta_path.append(MmcvOpsFinder)
    complete_transformer()


def complete_transformer():
    """Give mmcv's transformer module, if it was imported before the finder was there, the class that it could not import then.

    mmdet imports that class from it.
    """
    module = sys.modules.get('mmcv.cnn.bricks.transformer')
    if module is not None and not hasattr(module, ATTENTION) and using_fallback():
        setattr(module, ATTENTION, getattr(import_module('mmcv.ops.multi_scale_deform_attn'), ATTENTION))


def using_fallback():
    """Whether `mmcv._ext` is, or on import would be, the fallback; False with a compiled one, or without mmcv.

    Imports nothing: checks the loaded module if there is one, and mmcv's folder otherwise.
    """
    if NAME in sys.modules:
        return getattr(sys.modules[NAME], '__file__', None) == str(SOURCE)
    if MmcvOpsFinder not in sys.meta_path:
        return False
    mmcv = sys.modules.get('mmcv')
    spec = None if mmcv else find_spec('mmcv')
    folders = mmcv.__path__ if mmcv else spec and spec.submodule_search_locations
    return bool(folders) and PathFinder.find_spec(NAME, folders) is None and MmcvOpsFinder.find_spec(NAME) is not None

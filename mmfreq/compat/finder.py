"""An import finder that supplies `mmcv._ext` where the compiled one is absent.

mmdet and mmseg import `mmcv.ops`, and that imports the compiled module `mmcv._ext`, which `mmcv-lite` does not have. The
finder here stands last on `sys.meta_path`, so a compiled module always wins, and answers for that one name with a real module
spec (mmengine asks `pkgutil.find_loader('mmcv._ext')`) whose source is `mmcv_ops.py` beside this file. Nothing of it runs
before somebody imports it.

`import mmfreq` must come before the first import of `mmcv.ops`, `mmdet` or `mmseg` models. In worker processes that are
spawned, not forked, the main script's `import mmfreq` does that; a script without it is not helped.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path

NAME = 'mmcv._ext'
SOURCE = Path(__file__).with_name('mmcv_ops.py')


class MmcvOpsFinder:
    """Meta-path finder for `mmcv._ext` and for no other name."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        """Spec of the fallback; None for other names, and where torch or torchvision is not installed."""
        if fullname != NAME or find_spec('torch') is None or find_spec('torchvision') is None:
            return None
        return spec_from_file_location(NAME, SOURCE)


def install_finder():
    """Append the finder to `sys.meta_path`; a second call changes nothing."""
    if MmcvOpsFinder not in sys.meta_path:
        sys.meta_path.append(MmcvOpsFinder)


def using_fallback():
    """True if `mmcv._ext` is, or on import would be, the fallback; False with a compiled one, or without mmcv.

    Imports nothing: looks at the loaded module if there is one, at mmcv's folder otherwise.
    """
    if NAME in sys.modules:
        return getattr(sys.modules[NAME], '__file__', None) == str(SOURCE)
    if MmcvOpsFinder not in sys.meta_path:
        return False
    mmcv = sys.modules.get('mmcv')
    spec = None if mmcv else find_spec('mmcv')
    folders = mmcv.__path__ if mmcv else spec and spec.submodule_search_locations
    return bool(folders) and PathFinder.find_spec(NAME, folders) is None and MmcvOpsFinder.find_spec(NAME) is not None

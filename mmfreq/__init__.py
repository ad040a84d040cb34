"""mmfreq: frequency-domain and gnConv backbones and decoders for OpenMMLab 2.x.

`import mmfreq` is light: it loads neither torch nor OpenMMLab. It has two side effects: an import finder provides `mmcv._ext` with
torchvision's operators if the compiled extension is absent (`mmfreq.compat`), and as soon as mmengine's checkpoint loader is
imported, it also reads the files that mmfreq reads (`mmfreq.weights.loaders`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mmfreq.compat.after_import import after_import
from mmfreq.compat.finder import install_finder
from mmfreq.version import __version__
from mmfreq.weights.loaders import install_loaders

if TYPE_CHECKING:
    from mmfreq.models._factory import build_backbone, build_classifier, list_archs
    from mmfreq.speed.compiling import compile_blocks
    from mmfreq.speed.optimizing import optimize
    from mmfreq.weights.files import list_weights
    from mmfreq.weights.load import load_weights

# public name -> the module that defines it, imported at first use
_HOMES = {
    'list_archs': 'mmfreq.models._factory',
    'build_backbone': 'mmfreq.models._factory',
    'build_classifier': 'mmfreq.models._factory',
    'list_weights': 'mmfreq.weights.files',
    'load_weights': 'mmfreq.weights.load',
    'optimize': 'mmfreq.speed.optimizing',
    'compile_blocks': 'mmfreq.speed.compiling',
}
__all__ = [
    '__version__',
    'build_backbone',
    'build_classifier',
    'compile_blocks',
    'list_archs',
    'list_weights',
    'load_weights',
    'optimize',
]

install_finder()
after_import('mmengine.runner.checkpoint', install_loaders)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mmfreq' has no attribute '{name}'; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

"""mmfreq: frequency-domain and gnConv backbones and decoders for OpenMMLab 2.x.

`import mmfreq` is light: it loads neither torch nor OpenMMLab. It does one thing more than define names: it installs an import
finder that supplies `mmcv._ext` on torchvision's kernels where the compiled one is absent (`mmfreq.compat`).
"""

from importlib import import_module

from mmfreq.compat.finder import install_finder
from mmfreq.version import __version__

# public name -> the module that defines it, imported at first use
_HOMES = {
    'list_archs': 'mmfreq.models._factory',
    'build_backbone': 'mmfreq.models._factory',
    'build_classifier': 'mmfreq.models._factory',
    'load_weights': 'mmfreq.weights.load',
    'optimize': 'mmfreq.speed.optimizing',
    'compile_blocks': 'mmfreq.speed.compiling',
}
__all__ = ['__version__', *_HOMES]

install_finder()


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mmfreq' has no attribute '{name}'; public names: {', '.join(sorted(__all__))}")


def __dir__():
    return sorted([*globals(), *_HOMES])

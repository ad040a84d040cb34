"""Data set classes and the toy data generator. Importing this package is light; the classes load mmseg at first use.

The registry imports `mmfreq.datasets.registered`; `mmfreq.datasets.toy` needs numpy and OpenCV only.
"""

from importlib import import_module

# public name -> the module that defines it, imported at first use
_HOMES = {
    'CamVidDataset': 'mmfreq.datasets.segmentation',
    'ToyShapesDataset': 'mmfreq.datasets.segmentation',
    'TOY_CLASSES': 'mmfreq.datasets.toy',
    'TOY_COCO_METAINFO': 'mmfreq.datasets.toy',
    'TOY_METAINFO': 'mmfreq.datasets.toy',
    'write_toy_ade20k': 'mmfreq.datasets.toy',
    'write_toy_coco': 'mmfreq.datasets.toy',
}
__all__ = [*_HOMES]


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mmfreq.datasets' has no attribute '{name}'; public names: {', '.join(sorted(_HOMES))}")

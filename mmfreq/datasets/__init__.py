"""Dataset classes, transforms and the generator of toy data. Importing the package is light; the classes load mmseg on first use.

| module | contents |
|---|---|
| `segmentation` | `CamVidDataset`, `ToyShapesDataset` for mmseg |
| `detection` | `ToyInstancesDataset` for mmdet |
| `transforms` | `ResizeDownToMultiple` |
| `toy` | the generator of toy data; needs only numpy and OpenCV |
| `image_header` | format, size, orientation and faults of image files |
"""

from importlib import import_module

# public name -> the module that defines it, imported on first use
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

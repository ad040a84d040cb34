"""What the registry of data sets imports at its first lookup: the classes that the installed libraries allow.

They stand apart from the package's `__init__`, so that the toy generator starts without loading torch and mmseg.
"""

from importlib.util import find_spec

if find_spec('mmseg'):
    from mmfreq.datasets.camvid import CamVidDataset
    from mmfreq.datasets.toy_shapes import ToyShapesDataset

    __all__ = ['CamVidDataset', 'ToyShapesDataset']

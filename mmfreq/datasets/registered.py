"""What the registries of data sets and transforms import at their first lookup: the classes that the installed libraries allow.

They stand apart from the package's `__init__`, so that the toy generator starts without loading torch and mmseg.
"""

from importlib.util import find_spec

from mmfreq.datasets.resize_down import ResizeDownToMultiple

__all__ = ['ResizeDownToMultiple']

if find_spec('mmseg'):
    from mmfreq.datasets.camvid import CamVidDataset
    from mmfreq.datasets.toy_shapes import ToyShapesDataset

    __all__ += ['CamVidDataset', 'ToyShapesDataset']

if find_spec('mmdet'):
    from mmfreq.datasets.toy_instances import ToyInstancesDataset

    __all__ += ['ToyInstancesDataset']

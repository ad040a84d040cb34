"""CamVid (Brostow, Fauqueur, Cipolla 2009) in the 11-class form of SegNet, kept in ADE20K's folders.

The palette is SegNet's. Labels are 0..10 and 255 where nothing is labelled, so zero labels are kept.
"""

from mmseg.datasets import BaseSegDataset

from mmfreq.datasets.toy import TOY_METAINFO
from mmfreq.registry import DATASETS

CAMVID_CLASSES = (
    ('sky', (128, 128, 128)),
    ('building', (128, 0, 0)),
    ('pole', (192, 192, 128)),
    ('road', (128, 64, 128)),
    ('pavement', (60, 40, 222)),
    ('tree', (128, 128, 0)),
    ('sign-symbol', (192, 128, 128)),
    ('fence', (64, 64, 128)),
    ('car', (64, 0, 128)),
    ('pedestrian', (64, 64, 0)),
    ('bicyclist', (0, 128, 192)),
)


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """`images/{training,validation}/*.jpg`, `annotations/{training,validation}/*.png`; give the folders as `data_prefix`."""

    METAINFO = {
        'classes': tuple(name for name, _ in CAMVID_CLASSES),
        'palette': [colour for _, colour in CAMVID_CLASSES],
    }

    def __init__(self, img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=False, **kwargs):
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=reduce_zero_label, **kwargs)


# The toy set of `toy.py` in ADE20K's layout, as a data set of mmsegmentation. Classes and colours are those of TOY_CLASSES.


@DATASETS.register_module()
class ToyShapesDataset(BaseSegDataset):
    """`images/{training,validation}/*.jpg`, `annotations/{training,validation}/*.png`; label 0 is not labelled.

    For the COCO layout there is `ToyInstancesDataset`.
    """

    METAINFO = TOY_METAINFO

    def __init__(self, img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=True, **kwargs):
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=reduce_zero_label, **kwargs)

"""Segmentation datasets for mmsegmentation, in ADE20K's folders: CamVid and the toy dataset."""

from mmseg.datasets import BaseSegDataset

from mmfreq.datasets.toy import TOY_METAINFO
from mmfreq.registry import DATASETS

CAMVID_CLASSES = (  # with the palette of SegNet
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
    """CamVid (Brostow, Fauqueur, Cipolla 2009) with the 11 classes of SegNet. Labels are 0..10, and 255 is not labeled.

    `images/{training,validation}/*.jpg`, `annotations/{training,validation}/*.png`; set the folders in `data_prefix`.
    """

    METAINFO = {
        'classes': tuple(name for name, _ in CAMVID_CLASSES),
        'palette': [color for _, color in CAMVID_CLASSES],
    }

    def __init__(self, img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=False, **kwargs):
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=reduce_zero_label, **kwargs)


@DATASETS.register_module()
class ToyShapesDataset(BaseSegDataset):
    """`images/{training,validation}/*.jpg`, `annotations/{training,validation}/*.png`; label 0 is not labeled.

    `ToyInstancesDataset` is for the COCO layout.
    """

    METAINFO = TOY_METAINFO

    def __init__(self, img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=True, **kwargs):
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=reduce_zero_label, **kwargs)

"""The toy set of `toy.py` in ADE20K's layout, as a data set of mmsegmentation. Classes and colours are those of TOY_CLASSES."""

from mmseg.datasets import BaseSegDataset

from mmfreq.datasets.toy_scene import TOY_METAINFO
from mmfreq.registry import DATASETS


@DATASETS.register_module()
class ToyShapesDataset(BaseSegDataset):
    """`images/{training,validation}/*.jpg`, `annotations/{training,validation}/*.png`; label 0 is not labelled.

    For the COCO layout there is `ToyInstancesDataset`.
    """

    METAINFO = TOY_METAINFO

    def __init__(self, img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=True, **kwargs):
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=reduce_zero_label, **kwargs)

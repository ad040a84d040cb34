"""The toy set of `toy.py` in COCO's layout, as a data set of mmdetection. Classes and colours are those of TOY_CLASSES."""

from mmdet.datasets import CocoDataset

from mmfreq.datasets.toy import TOY_COCO_METAINFO
from mmfreq.registry import DATASETS


@DATASETS.register_module()
class ToyInstancesDataset(CocoDataset):
    """`{train,val}2017/*.jpg`, `annotations/instances_{train,val}2017.json`; the ground is no category."""

    METAINFO = TOY_COCO_METAINFO

"""The toy dataset in COCO's layout, for mmdetection."""

from mmdet.datasets import CocoDataset

from mmfreq.datasets.toy import TOY_COCO_METAINFO
from mmfreq.registry import DATASETS


@DATASETS.register_module()
class ToyInstancesDataset(CocoDataset):
    """`{train,val}2017/*.jpg`, `annotations/instances_{train,val}2017.json`; the ground is not a category."""

    METAINFO = TOY_COCO_METAINFO

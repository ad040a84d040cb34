"""The COCO files of detection datasets, compared with what mmdet's `CocoDataset` and pycocotools do with them.

| module | what it checks |
|---|---|
| `datasets` | each dataset and its metric; calls the others |
| `categories` | the classes, and their order in all files |
| `images` | the image files exist, and a sample can be read |
| `annotations` | the fields of each annotation, and which annotations mmdet skips |
| `masks` | polygons and run lengths |
| `geometry` | boxes and masks against the size of their images |
| `evaluator` | what `CocoMetric` cannot score, or scores wrongly |

In messages `where` is 'CONFIG_KEY: PATH_OF_THE_FILE'.
"""

from mmfreq.preflight.coco.datasets import check_coco, check_scored

__all__ = ['check_coco', 'check_scored']

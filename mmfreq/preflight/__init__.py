"""What can be told of a run before its first iteration: each check raises an error that says what is wrong, where, and what to do.

| module | looks at |
|---|---|
| `versions` | the packages that the config's library needs, as `python -m mmfreq.doctor` does |
| `paths`, `classes` | folders and files of the config; number of classes against the heads |
| `pairs` | segmentation: every image has its label; a sample of them is read |
| `coco`, `coco_images`, `coco_boxes` | detection: the annotation file, and what mmdet will leave out of it |
| `checkpoint` | the checkpoint to start from, against the model on the meta device |
| `disk`, `memory` | room for the checkpoints, and for one iteration |

`check_run` does them all, in the first process of a run, and tells a `Report` what it saw.
"""

from mmfreq.preflight.paths import check_data, holds_a_file, leaf_datasets, missing_paths
from mmfreq.preflight.report import Report
from mmfreq.preflight.run import PreflightError, check_run

__all__ = ['PreflightError', 'Report', 'check_data', 'check_run', 'holds_a_file', 'leaf_datasets', 'missing_paths']

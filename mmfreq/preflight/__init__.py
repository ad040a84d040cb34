"""Checks before a run: `check_run, check_test` validates a training config before anything is built.

| module | contents |
|---|---|
| `run` | `check_run, check_test`, the table of all checks, and the checks of installed packages and of the checkpoint |
| `data` | datasets of a config: paths, number of classes |
| `segmentation` | image and label pairs |
| `label_values` | classes that do not occur in label maps |
| `seg_heads` | heads and losses of segmentors |
| `classification`, `class_folders` | classification datasets |
| `evaluators` | metrics and the score of the best checkpoint |
| `coco` | COCO annotation files |
| `samples` | images, labels and boxes while they are loaded |
| `batch_norms` | norms that get one value per channel |
| `resources` | disk space and memory |
| `rewritten` | parts of the model in `efficient_conv_bn_eval` and `activation_checkpointing` |
| `report` | `Report`: what the checks found |
"""

from mmfreq.preflight.data import check_data, holds_a_file, leaf_datasets, missing_paths
from mmfreq.preflight.report import Report
from mmfreq.preflight.run import PreflightError, check_run, check_test

__all__ = ['PreflightError', 'Report', 'check_data', 'check_run', 'check_test', 'holds_a_file', 'leaf_datasets', 'missing_paths']

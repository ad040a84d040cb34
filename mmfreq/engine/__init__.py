"""Training and testing: the run itself, and the hooks, loops and optimizer constructor for mmengine's registries.

| module | what it has |
|---|---|
| `launch` | start here: `train` and `evaluate`, and every step from a config file to the Runner, in order |
| `processes` | fit a config to its processes and devices: norms, precision, launcher, loaders |
| `hooks` | guards of a run; the table of all hooks |
| `layer_decay` | learning rates that decay from the head to the stem |
| `evaluation` | what `tools/test.py` adds: TTA, predictions on disk, images |
| `class_scores`, `baseline` | the score of each class; the constant predictor to compare with |
| `dry_run` | `tools/train.py --dry-run` |
| `failure_log` | why a process of a run failed, in the logs |
| `resume` | runs that stop at any moment and resume exactly |
"""

from mmfreq.engine.hooks import CheckpointGuardHook, InputGuardHook, LossGuardHook, OptimizeHook
from mmfreq.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mmfreq.engine.resume.checkpoint_hook import CheckpointHook
from mmfreq.engine.resume.loops import EpochBasedTrainLoop, IterBasedTrainLoop
from mmfreq.engine.resume.stop_signal import StopInValidationHook

__all__ = [
    'CheckpointGuardHook',
    'CheckpointHook',
    'EpochBasedTrainLoop',
    'InputGuardHook',
    'IterBasedTrainLoop',
    'LayerDecayOptimWrapperConstructor',
    'LossGuardHook',
    'OptimizeHook',
    'StopInValidationHook',
]

"""Training and testing: hooks, loops and optimizer constructors for mmengine's registries.

`mmfreq.engine.launch` has what the command-line tools call.
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

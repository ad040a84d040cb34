"""Training and testing: hooks, loops and optimizer constructors for mmengine's registries.

`mmfreq.engine.launch` has what the command-line tools call.
"""

from mmfreq.engine.checkpoint_guard import CheckpointGuardHook
from mmfreq.engine.checkpoint_hook import CheckpointHook
from mmfreq.engine.input_guard import InputGuardHook
from mmfreq.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mmfreq.engine.loops import EpochBasedTrainLoop, IterBasedTrainLoop
from mmfreq.engine.loss_guard import LossGuardHook
from mmfreq.engine.optimize_hook import OptimizeHook
from mmfreq.engine.stop_signal import StopInValidationHook

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

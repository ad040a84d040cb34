"""Training and testing: hooks and optimizer constructors for mmengine's registries.

`mmfreq.engine.launch` has what the command-line tools call.
"""

from mmfreq.engine.checkpoint_guard import CheckpointGuardHook
from mmfreq.engine.input_guard import InputGuardHook
from mmfreq.engine.layer_decay import LayerDecayOptimWrapperConstructor

__all__ = ['CheckpointGuardHook', 'InputGuardHook', 'LayerDecayOptimWrapperConstructor']

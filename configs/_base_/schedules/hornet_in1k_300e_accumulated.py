# hornet_in1k_300e.py with gradients accumulated over two iterations, for half the GPUs. The averaged weights are updated once per
# optimizer step.
# The published code clips after each of the two backward passes, mmengine once before the step.
_base_ = 'hornet_in1k_300e.py'
optim_wrapper = dict(accumulative_counts=2)
custom_hooks = [dict(type='EMAHook', momentum=1e-4, interval=2, priority='ABOVE_NORMAL')]

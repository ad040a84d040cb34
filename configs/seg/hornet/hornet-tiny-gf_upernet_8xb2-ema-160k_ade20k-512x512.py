# hornet-tiny-gf_upernet_8xb2-160k_ade20k-512x512 with averaged weights. Our own variant; there is no published score.
_base_ = './hornet-tiny-gf_upernet_8xb2-160k_ade20k-512x512.py'
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]

# hornet-tiny-gf_mask-rcnn_8xb2-1x_coco with averaged weights. Our own variant; there is no published score.
_base_ = './hornet-tiny-gf_mask-rcnn_8xb2-1x_coco.py'
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]

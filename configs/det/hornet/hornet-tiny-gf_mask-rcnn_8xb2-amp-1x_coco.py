# hornet-tiny-gf_mask-rcnn_8xb2-1x_coco with mixed precision. Our own variant; there is no published score.
_base_ = './hornet-tiny-gf_mask-rcnn_8xb2-1x_coco.py'
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
